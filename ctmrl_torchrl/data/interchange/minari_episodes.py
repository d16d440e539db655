"""Reads episodes of a Minari dataset as trajectories; episodes of other sources are converted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.assemble import Trajectory, as_features, as_flags
from ctmrl_torchrl.data.interchange.minari_common import INFOS, SNAPSHOT_ENTRY, from_numpy
from ctmrl_torchrl.data.keys import key_parts, parse_dtype
from ctmrl_torchrl.data.manifest import DatasetManifest


@contextmanager
def damage_named(name: str) -> Iterator[None]:
    """Name the Minari dataset whose files cannot be read.

    Raises:
        DatasetError: in place of the errors of HDF5 and of the system.
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


@dataclass(frozen=True)
class OpenedMinari:
    """A Minari dataset with its task and the snapshots of its episodes."""

    name: str
    data: Any
    task: int
    snapshot: int
    manifest: DatasetManifest | None

    def lengths(self) -> list[int]:
        """Number of steps of each episode."""
        with damage_named(self.name):
            metadata = self.data.storage.get_episode_metadata(self.data.episode_indices)
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
    ids = opened.data.storage.get_episode_metadata(opened.data.episode_indices)
    for episode, metadata in zip(opened.data.iterate_episodes(), ids, strict=True):
        where = f"{opened.name}, episode {episode.id}"
        try:
            infos = (episode.infos or {}).get(INFOS, {})
            following = infos.get("next_observation", episode.observations[1:])
            entries = {
                ("observation",): episode.observations[:-1],
                ("action",): episode.actions,
                ("next", "observation"): following,
                ("next", "reward"): episode.rewards[:, None],
                ("next", "done"): (episode.terminations | episode.truncations)[:, None],
                ("next", "terminated"): episode.terminations[:, None],
                ("next", "truncated"): episode.truncations[:, None],
            }
            for name, (_, dtype) in manifest.keys.items():
                if name in infos:
                    entries[key_parts(name)] = from_numpy(infos[name], parse_dtype(dtype))
            yield Trajectory(where, opened.task, int(metadata[SNAPSHOT_ENTRY]), entries)
        except (KeyError, TypeError, IndexError) as error:
            raise DatasetError(f"{where} was changed after its export ({error!r})") from error


def _foreign(opened: OpenedMinari) -> Iterator[Trajectory]:
    """The trajectories of any other dataset."""
    space = opened.data.spec.action_space
    for episode in opened.data.iterate_episodes():
        where = f"{opened.name}, episode {episode.id}"
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
    """Scale actions from the bounds of their space to [-1, 1]."""
    if not hasattr(space, "low") or isinstance(actions, (dict, tuple)):
        raise DatasetError(
            f"{where}: the action space is {space}, but policies need continuous actions (a Box)"
        )
    values = as_features(actions, f"{where}: actions")
    low, high = (np.asarray(bound, dtype=np.float64).reshape(-1) for bound in (space.low, space.high))
    if not np.isfinite([low, high]).all() or ((low == -1) & (high == 1)).all():
        return values
    fixed = high == low
    scaled = 2 * (values.astype(np.float64) - low) / np.where(fixed, 1, high - low) - 1
    return np.where(fixed, 0.0, scaled).astype(np.float32)
