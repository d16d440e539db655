"""Import of data in the reference code's layout: a folder per task, a pickled ``.npy`` per trajectory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.files import check_target
from ctmrl_torchrl.data.interchange.assemble import finish
from ctmrl_torchrl.data.interchange.registry import IMPORTERS
from ctmrl_torchrl.data.layout import ACTION_TOLERANCE
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.envs import EnvFamily, TaskSet, get_family, make_task_set, sparse_reward
from ctmrl_torchrl.storage import expanded

_TASK_FOLDER = re.compile(r"goal_idx(\d+)")
_TRAJECTORY_FILE = re.compile(r"trj_evalsample(\d+)_step(\d+)\.npy")
_FIELDS = ("observation", "action", "reward", "next observation")
_CONTINUITY_TOLERANCE = 1e-4


@dataclass(frozen=True, order=True)
class _TrajectoryFile:
    """One file; files are sorted by task, then training step, then sample."""

    task: int
    step: int
    sample: int
    path: Path


@IMPORTERS.register("released")
def import_released(
    folder: str | Path,
    *,
    env: str,
    output: str | Path | None = None,
    trust_pickle: bool = False,
    preset: str = "repo",
    task_set: TaskSet | None = None,
    horizon: int | None = None,
    overwrite: bool = False,
) -> TaskDataset:
    """Create a :class:`TaskDataset` from data in the layout of the authors' released code.

    Expected are ``folder/goal_idx{task}/trj_evalsample{sample}_step{step}.npy``, each an object array of one
    trajectory in time order, whose rows are ``(observation, action, reward, next observation)``; the reward
    is a number or an array with one element, actions are in [-1, 1]. Other files are ignored. The sorted
    training steps become the snapshots 0, 1, ....

    This layout has no flags. The last transition is ``truncated``, except that a trajectory shorter than the
    horizon is ``terminated`` in families with early termination (``EnvFamily.terminates``). The sparse reward
    is recomputed from the dense one, so the files must contain the dense reward.

    Args:
        folder: the folder with the tasks' folders.
        env: environment family of the data.
        output: save the dataset here and return it memory-mapped; None keeps it in memory.
        trust_pickle: object arrays are pickles, and opening a pickle can run any code. Nothing is opened
            unless this is True; set it only for files that you trust.
        preset: task-set preset with the task ids, parameters and split of the data.
        task_set: the task set itself, instead of a preset.
        horizon: maximum trajectory length; None means the family's.
        overwrite: replace a dataset at ``output``.

    Returns:
        the validated dataset.

    Raises:
        DatasetError: with the invalid file and row, or if ``trust_pickle`` is not set.
        ValueError: if the family or preset is unknown.

    Examples:
        >>> dataset = import_released(                                       # doctest: +SKIP
        ...     "released/point-robot", env="point_robot", output="datasets/released", trust_pickle=True)
    """
    folder = expanded(folder)
    if not trust_pickle:
        raise DatasetError(
            f"{folder}: files of this layout are pickled object arrays, and opening a pickle can run any "
            "code in it. If you trust where they come from, pass trust_pickle=True; nothing was opened"
        )
    family = get_family(env)
    task_set = make_task_set(env, preset) if task_set is None else task_set
    if task_set.family.name != env:
        raise ValueError(f"env is {env!r}, but task_set is of the family {task_set.family.name!r}")
    horizon = family.horizon if horizon is None else horizon
    if output is not None:
        check_target(output, overwrite)
    files = _find_files(folder, task_set)
    steps = sorted({file.step for file in files})
    transitions = _read_transitions(files, steps, family, horizon)
    manifest = DatasetManifest(
        env=env,
        preset=task_set.preset,
        horizon=horizon,
        tasks=task_set.to_dict(),
        versions=library_versions(),
        recipe={"source": "import_released", "files": len(files)},
    )
    return finish(transitions, manifest, steps=dict(enumerate(steps)), output=output, overwrite=overwrite)


def _find_files(folder: Path, task_set: TaskSet) -> list[_TrajectoryFile]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} does not exist; give the folder of the data")
    found = []
    for task_folder, match in _matching(folder, _TASK_FOLDER):
        if not task_folder.is_dir():
            continue
        task = int(match[1])
        if task >= len(task_set):
            raise DatasetError(
                f"{task_folder}: task {task}, but the task set {task_set.preset!r} has {len(task_set)} "
                "tasks; choose the preset (or pass the task_set) that the data were collected on"
            )
        of_task = [
            _TrajectoryFile(task, int(m[2]), int(m[1]), file)
            for file, m in _matching(task_folder, _TRAJECTORY_FILE)
        ]
        if not of_task:
            raise DatasetError(
                f"{task_folder}: no trj_evalsample*_step*.npy in it; remove the folder or fill it"
            )
        found.extend(of_task)
    if not found:
        raise DatasetError(f"{folder} contains no folders goal_idx*; give the folder that contains them")
    return sorted(found)


def _matching(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in folder.iterdir():
        match = pattern.fullmatch(path.name)
        if match:
            yield path, match


def _read_transitions(
    files: list[_TrajectoryFile], steps: list[int], family: EnvFamily, horizon: int
) -> TensorDict:
    trajectories = [_read_trajectory(file.path, family, horizon) for file in files]
    observation, action, reward, next_observation = (
        torch.from_numpy(np.concatenate(part)) for part in zip(*trajectories, strict=True)
    )
    length = torch.tensor([len(trajectory[0]) for trajectory in trajectories])
    done = torch.zeros_like(reward, dtype=torch.bool)
    done[length.cumsum(0) - 1] = True
    short = (length < horizon).repeat_interleave(length)[:, None]
    terminated = done & short if family.terminates else torch.zeros_like(done)
    following: dict[str, Tensor] = {
        "observation": next_observation,
        "reward": reward,
        "done": done,
        "terminated": terminated,
        "truncated": done & ~terminated,
    }
    if family.return_key == ("next", "sparse_reward"):
        following["sparse_reward"] = sparse_reward(reward)
    snapshot = {step: i for i, step in enumerate(steps)}
    return TensorDict(
        {
            "observation": observation,
            "action": action,
            "next": following,
            "task_id": torch.tensor([file.task for file in files]).repeat_interleave(length),
            "trajectory_id": torch.arange(len(files)).repeat_interleave(length),
            "snapshot_id": torch.tensor([snapshot[file.step] for file in files]).repeat_interleave(length),
        },
        [int(length.sum())],
    )


def _read_trajectory(path: Path, family: EnvFamily, horizon: int) -> tuple[np.ndarray, ...]:
    """Read the four columns of a trajectory, float32 ``[steps, features]``."""
    try:
        rows = np.load(path, allow_pickle=True)
    except Exception as error:  # report the file for every exception of a damaged pickle
        raise DatasetError(f"{path}: cannot be read as .npy ({type(error).__name__}: {error})") from error
    if not isinstance(rows, np.ndarray) or rows.ndim == 0 or not len(rows):
        raise DatasetError(f"{path}: expected an array of transitions, got {_describe(rows)}")
    if len(rows) > horizon:
        raise DatasetError(
            f"{path}: {len(rows)} transitions, more than the horizon {horizon} of {family.name}; pass "
            "horizon= if the data were collected with a longer one"
        )
    sizes = (family.observation_dim, family.action_dim, 1, family.observation_dim)
    columns = tuple(np.empty((len(rows), size), np.float32) for size in sizes)
    for i, row in enumerate(rows):
        if not hasattr(row, "__len__") or len(row) != len(_FIELDS):
            raise DatasetError(f"{path}: row {i} is {_describe(row)}, expected ({', '.join(_FIELDS)})")
        for column, value, name in zip(columns, row, _FIELDS, strict=True):
            column[i] = _read_value(value, column.shape[1], f"{path}: {name} of row {i}")
    observation, action, _, next_observation = columns
    outside = np.abs(action).max(1) > 1 + ACTION_TOLERANCE
    if outside.any():
        i = int(outside.argmax())
        raise DatasetError(f"{path}: action of row {i} is {action[i].tolist()}, outside [-1, 1]")
    gap = ~np.isclose(observation[1:], next_observation[:-1], atol=_CONTINUITY_TOLERANCE).all(1)
    if gap.any():
        i = int(gap.argmax())
        raise DatasetError(
            f"{path}: row {i + 1} does not start where row {i} ended ({observation[i + 1].tolist()} after "
            f"{next_observation[i].tolist()}); a file must hold one trajectory in time order"
        )
    return columns


def _read_value(value: Any, size: int, where: str) -> np.ndarray:
    try:
        numbers = np.asarray(value, dtype=np.float32).reshape(-1)
    except (TypeError, ValueError) as error:
        raise DatasetError(f"{where} is not numeric: {error}") from error
    if numbers.size != size:
        raise DatasetError(f"{where} has {numbers.size} numbers, expected {size}")
    if not np.isfinite(numbers).all():
        raise DatasetError(f"{where} is not finite: {numbers.tolist()}")
    return numbers


def _describe(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ if shape is None else f"{type(value).__name__} of shape {list(shape)}"
