"""Checks that the Minari datasets of an import fit together, before any episode is read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.minari_episodes import OpenedMinari


def check_fit(opened: list[OpenedMinari]) -> None:
    """Check that no episode is given twice, and that observations and actions mean the same in all datasets.

    Raises:
        DatasetError: with the two datasets that do not fit together.
    """
    _check_episodes(opened)
    first = opened[0]
    for each in opened[1:]:
        parts = [_parts(getattr(one.data.spec, "observation_space", None)) for one in (first, each)]
        if None not in parts and parts[0] != parts[1]:
            raise DatasetError(
                f"the observations of {first.name} and {each.name} have different parts: {_listed(parts[0])}, "
                f"and {_listed(parts[1])}; give all datasets the same observation space"
            )
        bounds = [_bounds(one.data.spec.action_space) for one in (first, each)]
        if None not in bounds and bounds[0] != bounds[1]:
            raise DatasetError(
                f"the actions of {first.name} and {each.name} have different bounds: {bounds[0]}, and "
                f"{bounds[1]}; an action scaled to [-1, 1] would mean something else in each. Give all "
                "datasets the same action space"
            )


def _check_episodes(opened: list[OpenedMinari]) -> None:
    """Refuse an episode that is given twice: as two tasks or snapshots it would claim what is not so."""
    seen: dict[tuple[Any, int], OpenedMinari] = {}
    for each in opened:
        folder = getattr(each.data.storage, "data_path", None)
        for episode in [] if folder is None else np.asarray(each.data.episode_indices).tolist():
            other = seen.setdefault((folder, episode), each)
            if other is not each:
                raise DatasetError(
                    f"episode {episode} of {each.name} is given twice, as task {other.task}, snapshot "
                    f"{other.snapshot}, and as task {each.task}, snapshot {each.snapshot}"
                )


def _parts(space: Any, name: str = "") -> list[tuple[str, int]] | None:
    """Name and size of each part of a space, in the order of their concatenation; None if they are unknown."""
    spaces = getattr(space, "spaces", None)
    if spaces is None:
        shape = getattr(space, "shape", None)
        return None if shape is None else [(name, math.prod(shape))]
    named = sorted(spaces.items()) if hasattr(spaces, "items") else list(enumerate(spaces))
    found: list[tuple[str, int]] = []
    for key, part in named:
        parts = _parts(part, f"{name}.{key}" if name else str(key))
        if parts is None:
            return None
        found += parts
    return found


def _listed(parts: list[tuple[str, int]] | None) -> str:
    return ", ".join(f"{name} [{size}]" if name else f"[{size}]" for name, size in parts or ())


def _bounds(space: Any) -> list[list[float]] | None:
    """Lower and upper bounds; None for other spaces than a Box, which are refused later."""
    if not hasattr(space, "low"):
        return None
    return [np.asarray(bound, np.float64).reshape(-1).tolist() for bound in (space.low, space.high)]
