"""Reads episodes of a Minari dataset as trajectories; episodes of other sources are converted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.assemble import Trajectory, as_features, as_flags
from ctmrl_torchrl.data.interchange.minari_common import CORE, INFOS, SNAPSHOT_ENTRY, from_numpy, to_numpy
from ctmrl_torchrl.data.keys import key_parts, parse_dtype
from ctmrl_torchrl.data.manifest import DatasetManifest

#: what h5py, Minari and NumPy raise for files that lack something or hold something else
_UNEXPECTED = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
#: where earlier exports kept the next observations of an episode with gaps
_EARLIER_NEXT = "next_observation"


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Name the Minari dataset whose files cannot be read.

    Raises:
        DatasetError: in place of the errors of HDF5, of Minari and of the system.
    """
    try:
        yield
    except DatasetError:
        raise
    except OSError as error:
        reason = str(error).splitlines()[0][:200]
        raise DatasetError(
            f"{name}: the files cannot be read ({reason}); restore them from a copy"
        ) from error
    except _UNEXPECTED as error:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise DatasetError(f"{name}: the files are not as Minari writes them ({reason})") from error


@dataclass(frozen=True)
class OpenedMinari:
    """A Minari dataset with its task and the snapshots of its episodes."""

    name: str
    data: Any
    task: int
    snapshot: int
    manifest: DatasetManifest | None

    def indices(self) -> Any:
        """Indices of the episodes; those of an export in its order, whose snapshots are sorted."""
        indices = self.data.episode_indices
        return indices if self.manifest is None else np.sort(indices)

    def lengths(self) -> list[int]:
        """Number of steps of each episode."""
        with damage_named(self.name):
            metadata = self.data.storage.get_episode_metadata(self.indices())
            return [int(each["total_steps"]) for each in metadata]


def read_trajectories(opened: list[OpenedMinari]) -> Iterator[Trajectory]:
    """Read the episodes of all datasets, one at a time.

    Raises:
        DatasetError: with the dataset, episode and step that cannot be used.
    """
    for each in opened:
        with damage_named(each.name):
            yield from _foreign(each) if each.manifest is None else _own(each, each.manifest)


def _own(opened: OpenedMinari, manifest: DatasetManifest) -> Iterator[Trajectory]:
    """The trajectories of a dataset that this library exported."""
    indices = opened.indices()
    ids = opened.data.storage.get_episode_metadata(indices)
    for episode, metadata in zip(opened.data.iterate_episodes(indices), ids, strict=True):
        where = f"{opened.name}, episode {episode.id}"
        try:
            entries = _own_entries(episode, manifest)
            snapshot = metadata[SNAPSHOT_ENTRY]
            if not isinstance(snapshot, (int, np.integer)):
                raise ValueError(f"{SNAPSHOT_ENTRY} is {snapshot!r}")
        except _UNEXPECTED as error:
            reason = error if isinstance(error, ValueError) else repr(error)
            raise DatasetError(f"{where} was changed after its export ({reason})") from error
        yield Trajectory(where, opened.task, int(snapshot), entries)


def _own_entries(episode: Any, manifest: DatasetManifest) -> dict[tuple[str, ...], Any]:
    """Every entry that the manifest names, as it was exported."""
    infos: Mapping[str, Any] = (episode.infos or {}).get(INFOS, {})
    entries: dict[tuple[str, ...], Any] = {
        ("observation",): episode.observations[:-1],
        ("action",): episode.actions,
        ("next", "observation"): episode.observations[1:],
        ("next", "reward"): episode.rewards[:, None],
        ("next", "done"): (episode.terminations | episode.truncations)[:, None],
        ("next", "terminated"): episode.terminations[:, None],
        ("next", "truncated"): episode.truncations[:, None],
    }
    if _EARLIER_NEXT not in manifest.keys:
        entries["next", "observation"] = infos.get(_EARLIER_NEXT, entries["next", "observation"])
    for name, (shape, dtype_name) in manifest.keys.items():
        key, dtype = key_parts(name), parse_dtype(dtype_name)
        if name in infos:
            entries[key] = infos[name]
        elif key not in CORE:
            raise ValueError(f"its infos lack {name}")
        if key in entries:
            values, expected = entries[key], to_numpy(torch.empty(0, dtype=dtype)).dtype
            if values.dtype != expected or list(values.shape[1:]) != list(shape):
                found = f"{values.dtype} {list(values.shape[1:])}"
                raise ValueError(f"{name} is {found} per step, expected {expected} {list(shape)}")
            entries[key] = from_numpy(values, dtype)
    return entries


def _foreign(opened: OpenedMinari) -> Iterator[Trajectory]:
    """The trajectories of any other dataset."""
    space = opened.data.spec.action_space
    for episode in opened.data.iterate_episodes():
        where = f"{opened.name}, episode {episode.id}"
        if INFOS in (episode.infos or {}):
            raise DatasetError(
                f"{where}: comes from an export of to_minari, but its dataset lacks the manifest, so its "
                "snapshot and other entries would be lost; give the exported datasets themselves"
            )
        rewards = as_features(episode.rewards, f"{where}: rewards")
        steps = len(rewards)
        observations = as_features(_flat(episode.observations), f"{where}: observations")
        if len(observations) != steps + 1:
            raise DatasetError(
                f"{where} has {len(observations)} observations for {steps} steps, expected {steps + 1}: the "
                "last observation is the next observation of the last step"
            )
        terminated = as_flags(episode.terminations, f"{where}: terminations")
        truncated = as_flags(episode.truncations, f"{where}: truncations")
        for name, flags in (("terminations", terminated), ("truncations", truncated)):
            if len(flags) != steps:
                raise DatasetError(f"{where}: has {len(flags)} {name} for {steps} steps")
        early = np.flatnonzero((terminated | truncated)[:-1])
        if len(early):
            raise DatasetError(f"{where} ends at step {early[0]}, but has {steps} steps; split it there")
        truncated[-1] |= ~terminated[-1]
        yield Trajectory(
            where,
            opened.task,
            opened.snapshot,
            {
                ("observation",): observations[:-1],
                ("action",): _scaled(episode.actions, space, where),
                ("next", "observation"): observations[1:],
                ("next", "reward"): rewards,
                ("next", "done"): terminated | truncated,
                ("next", "terminated"): terminated,
                ("next", "truncated"): truncated,
            },
        )


def _flat(values: Any) -> np.ndarray:
    """Concatenate the parts of composed observations, each flattened, in the order of their names."""
    if isinstance(values, dict):
        values = tuple(values[key] for key in sorted(values))
    if isinstance(values, tuple):
        return np.concatenate([_flat(part) for part in values], axis=1)
    array = np.asarray(values)
    return array.reshape(len(array), -1)


def _scaled(actions: Any, space: Any, where: str) -> np.ndarray:
    """Scale actions from the bounds of their space to [-1, 1]; without any bound, they stay as they are."""
    if not hasattr(space, "low") or isinstance(actions, (dict, tuple)):
        raise DatasetError(
            f"{where}: the action space is {space}, but policies need continuous actions (a Box)"
        )
    values = as_features(actions, f"{where}: actions")
    low, high = (np.asarray(bound, dtype=np.float64).reshape(-1) for bound in (space.low, space.high))
    if values.shape[1] != len(low):
        raise DatasetError(
            f"{where}: its actions have {values.shape[1]} numbers, but its action space has {len(low)}"
        )
    finite = np.isfinite([low, high])
    if not finite.any() or ((low == -1) & (high == 1)).all():
        return values
    if not finite.all():
        raise DatasetError(
            f"{where}: the bounds of the action space are not finite in the dimensions "
            f"{np.flatnonzero(~finite.all(0)).tolist()} of {len(low)}, so these cannot be scaled to [-1, 1] like "
            "the others; give the Minari dataset an action space with finite bounds in every dimension"
        )
    fixed = high == low
    scaled = 2 * (values.astype(np.float64) - low) / np.where(fixed, 1, high - low) - 1
    return np.where(fixed, 0.0, scaled).astype(np.float32)
