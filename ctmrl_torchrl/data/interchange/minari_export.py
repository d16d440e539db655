"""Lossless export to Minari, with one Minari dataset per task."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDictBase

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.minari_common import (
    CORE,
    INFOS,
    MANIFEST_ENTRY,
    SNAPSHOT_ENTRY,
    TASK_ENTRY,
    TRAJECTORY_ENTRY,
    manifest_entry,
    require_minari,
    to_numpy,
)
from ctmrl_torchrl.rules import is_whole

#: bytes of a part of a name
_LONGEST = 200
#: name of the folder with a dataset's content
_DATA = "data"
#: arguments of Minari that the export sets itself
_SET_HERE = {"dataset_id", "buffer", "observation_space", "action_space", "data_format"}
#: number of episodes passed to Minari at once
_EPISODES = 64


def to_minari(dataset: TaskDataset, name: str, *, version: int = 0, **metadata: Any) -> dict[int, str]:
    """Write every task's data as a Minari dataset ``NAME/task-ID-vVERSION``.

    Observations, actions, rewards, terminations and truncations use Minari's standard fields. The dataset's
    metadata contain the task id and the manifest (parameters, split, snapshots, recipe, versions), the episodes'
    metadata the snapshot and trajectory ids, and the infos, under ``"ctmrl"``, all other entries.
    :func:`~ctmrl_torchrl.data.interchange.from_minari` restores the same dataset bit for bit.

    Args:
        dataset: the dataset.
        name: Minari namespace, e.g. ``"me/point-robot"``.
        version: version in the names.
        metadata: passed on to Minari: ``author``, ``author_email``, ``algorithm_name``, ``code_permalink``,
            ``description``, ``env``, ``requirements``.

    Returns:
        the Minari dataset id of each task.

    Raises:
        ImportError: if Minari is not installed.
        DatasetError: if a Minari dataset with such a name already exists, or Minari cannot write one; nothing
            is changed.

    Examples:
        >>> names = to_minari(TaskDataset.load("datasets/point_robot"), "me/point-robot")  # doctest: +SKIP
        >>> again = from_minari(names)  # doctest: +SKIP
    """
    if not isinstance(dataset, TaskDataset):
        raise DatasetError(f"expected a TaskDataset, got {type(dataset).__name__}")
    _check_name(name, version)
    minari = require_minari()
    _check_metadata(minari, metadata)
    names = {task: f"{name}/task-{task}-v{version}" for task in dataset.task_ids.tolist()}
    # Minari's list leaves damaged datasets out, but their folders are there.
    existing = sorted(each for each in names.values() if os.path.lexists(_folder(each)))
    if existing:
        raise DatasetError(
            f"Minari has a dataset {existing[0]} already ({_folder(existing[0])}); choose another name or "
            "version, or delete it with minari.delete_dataset"
        )
    _check_parents(name)
    made: list[Path] = []
    try:
        for task, full_name in names.items():
            made.append(_claim(_folder(full_name)))
            _write_task(minari, dataset, task, full_name, metadata)
    except BaseException as error:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, DatasetError) or not isinstance(error, Exception):
            raise
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise DatasetError(f"{name}: Minari could not write it ({reason}); nothing was kept") from error
    return names


def _check_name(name: str, version: int) -> None:
    """Accept only names whose folders lie in Minari's own."""
    parts = name.split("/") if isinstance(name, str) else []
    fits = [
        re.fullmatch(r"[\w-]+", part) is not None and len(os.fsencode(part)) <= _LONGEST for part in parts
    ]
    if not fits or not all(fits):
        raise DatasetError(
            f"{name!r} is no Minari namespace: expected letters, digits, '_' and '-', in parts separated by '/'"
        )
    if _DATA in parts:
        raise DatasetError(
            f"{name!r}: Minari takes a folder {_DATA!r} for the content of a dataset; choose another name"
        )
    if not is_whole(version) or version < 0:
        raise DatasetError(f"version must be a whole number from 0, got {version!r}")


def _check_metadata(minari: Any, metadata: dict[str, Any]) -> None:
    """Accept only what is passed on: Minari's own arguments that the export does not set itself."""
    known = set(inspect.signature(minari.create_dataset_from_buffers).parameters) - _SET_HERE
    unknown = sorted(metadata.keys() - known)
    if unknown:
        raise DatasetError(
            f"{', '.join(unknown)}: no metadata of an export; known: {', '.join(sorted(known))}"
        )


def _check_parents(name: str) -> None:
    """Refuse a namespace inside a dataset, where Minari lists nothing and deletes the export with it."""
    parts = name.split("/")
    for count in range(1, len(parts) + 1):
        parent = "/".join(parts[:count])
        if os.path.lexists(_folder(parent) / _DATA):
            raise DatasetError(f"{parent} is a Minari dataset, so it cannot hold others; choose another name")


def _folder(name: str) -> Path:
    from minari.storage import get_dataset_path

    try:
        return Path(get_dataset_path(name))
    except OSError as error:  # it also makes Minari's own folder
        raise DatasetError(f"Minari's folder cannot be used ({error}); see MINARI_DATASETS_PATH") from error


def _claim(folder: Path) -> Path:
    """Make sure that nobody else has made the folder meanwhile: what is deleted after an error is our own."""
    try:
        folder.mkdir(parents=True)
        folder.rmdir()  # Minari makes it itself
    except OSError as error:
        raise DatasetError(
            f"{folder} cannot be made ({error.strerror}); nothing there was changed"
        ) from error
    return folder


def _write_task(minari: Any, dataset: TaskDataset, task: int, name: str, metadata: dict[str, Any]) -> None:
    from gymnasium.spaces import Box

    trajectories = (dataset.trajectory_task == task).nonzero()[:, 0].tolist()
    sizes = dataset.sizes()
    described = {"description": f"Task {task} of {dataset.manifest.env} ({dataset.manifest.preset})."}
    created = None
    for first in range(0, len(trajectories), _EPISODES):
        buffer = [
            _episode(dataset, trajectory, first + i)
            for i, trajectory in enumerate(trajectories[first : first + _EPISODES])
        ]
        if created is not None:
            created.update_dataset_from_buffer(buffer)
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Minari's warnings about missing metadata
            created = minari.create_dataset_from_buffers(
                name,
                buffer,
                observation_space=Box(-np.inf, np.inf, (sizes.observation_dim,), np.float32),
                action_space=Box(-1.0, 1.0, (sizes.action_dim,), np.float32),
                **described | metadata,
            )
    assert created is not None  # a task with data has trajectories
    entries = {MANIFEST_ENTRY: manifest_entry(dataset.manifest.replace(checksums={})), TASK_ENTRY: task}
    created.storage.update_metadata(entries)
    ids = [
        {SNAPSHOT_ENTRY: int(dataset.trajectory_snapshot[trajectory]), TRAJECTORY_ENTRY: trajectory}
        for trajectory in trajectories
    ]
    created.storage.update_episode_metadata(ids, range(len(ids)))


def _episode(dataset: TaskDataset, trajectory: int, number: int) -> Any:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    start, length = (int(each[trajectory]) for each in (dataset.trajectory_start, dataset.trajectory_length))
    rows: Any = dataset.transitions[start : start + length]
    observation, following = rows["observation"], rows["next", "observation"]
    infos = _extra(rows)
    if not _same_bits(observation[1:], following[:-1]):  # imported data may have gaps between steps
        infos["next.observation"] = to_numpy(following)
    return EpisodeBuffer(
        id=number,
        observations=to_numpy(torch.cat([observation, following[-1:]])),
        actions=to_numpy(rows["action"]),
        rewards=to_numpy(rows["next", "reward"].squeeze(-1)),
        terminations=to_numpy(rows["next", "terminated"].squeeze(-1)),
        truncations=to_numpy(rows["next", "truncated"].squeeze(-1)),
        infos={INFOS: infos} if infos else None,
    )


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Equality that distinguishes 0 from -0."""
    return torch.equal(*(each.contiguous().view(torch.int32) for each in (left, right)))


def _extra(rows: TensorDictBase) -> dict[str, Any]:
    """Entries without a place in Minari, by their name in the manifest."""
    found = {}
    for key, value in rows.items(include_nested=True, leaves_only=True):
        key = key if isinstance(key, tuple) else (key,)
        if key not in CORE:
            found[".".join(key)] = to_numpy(value)
    return found
