"""Import of data in UNICORN's layout: a folder per task with five arrays."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.interchange.assemble import (
    Trajectory,
    as_features,
    as_flags,
    assemble,
    finish,
    workspace,
)
from ctmrl_torchrl.data.interchange.registry import IMPORTERS
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.data.sizes import whole_numbers
from ctmrl_torchrl.storage import expanded

ARRAYS = ("obs", "actions", "rewards", "next_obs", "terminals")
_TASK_FOLDER = re.compile(r"(?:seed_(?P<seed>\d+)_)?goal_(?P<goal>.+)")
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class _Task:
    """A task's folder and the values encoded in its name."""

    path: Path
    seed: int | None
    goal: tuple[float, ...] | None


@IMPORTERS.register("unicorn")
def import_unicorn(
    folder: str | Path,
    *,
    env: str,
    horizon: int | None = None,
    test_ids: Iterable[int] | Tensor | int = (),
    parameters: Sequence[Sequence[float]] | None = None,
    parameter_names: Sequence[str] | None = None,
    snapshots: int = 1,
    discount: float | None = None,
    preset: str = "unicorn",
    output: str | Path | None = None,
    overwrite: bool = False,
) -> TaskDataset:
    """Create a :class:`TaskDataset` from data in the layout of UNICORN's released code.

    Expected are folders ``seed_{k}_goal_{parameters joined by _}`` with ``obs.npy``, ``actions.npy``,
    ``rewards.npy``, ``next_obs.npy`` and ``terminals.npy``, either ``[steps, trajectories, features]`` or
    ``[transitions, features]``. Sorted by ``k``, the folders become the tasks 0, 1, .... No pickle is opened.

    A trajectory ends with ``terminated`` at a terminal, and with ``truncated`` at the end of a column, at a row
    that does not continue the previous one, or at the horizon.

    Args:
        folder: the folder with the tasks' folders.
        env: name of the environment; it need not be registered.
        horizon: maximum trajectory length; None means the column length, which flat arrays do not have.
        test_ids: tasks of the test split; the others are training tasks.
        parameters: one row of numbers per task, instead of those in the folders' names.
        parameter_names: names of the parameters.
        snapshots: number of stages with equal numbers of trajectories into which each task's data are divided,
            in the order of collection; the layout does not record the policy.
        discount: gamma, for the manifest.
        preset: name of the task set, for the manifest.
        output: save the dataset here and return it memory-mapped; None keeps it in memory.
        overwrite: replace a dataset at ``output``.

    Raises:
        DatasetError: with the invalid file.
        ValueError: if ``test_ids`` are not integers.

    Examples:
        >>> dataset = import_unicorn(  # doctest: +SKIP
        ...     "batch_data/AntDir-v0/data", env="ant_dir", test_ids=range(20, 40), output="datasets/ant_dir")
    """
    root = expanded(folder)
    tasks = _find_tasks(root)
    rows = _parameters(tasks, parameters)
    names = list(parameter_names or (f"parameter_{i}" for i in range(len(rows[0]))))
    tested = whole_numbers(test_ids, "test_ids").tolist()
    if snapshots < 1:
        raise DatasetError(f"snapshots must be at least 1, got {snapshots}")
    with workspace(output, overwrite) as room:
        files = [_open(task.path) for task in tasks]
        longest = [array["obs"].shape[0] for array in files if array["obs"].ndim == 3]
        if horizon is None and len(longest) < len(files):
            raise DatasetError(
                f"{root}: the arrays are flat, so the length of a trajectory must be given; pass horizon="
            )
        steps = max(longest) if horizon is None else horizon
        manifest = DatasetManifest(
            env=env,
            preset=preset,
            horizon=steps,
            tasks={
                "name": env,
                "preset": preset,
                "parameters": rows,
                "parameter_names": names,
                "train_ids": [task for task in range(len(tasks)) if task not in tested],
                "test_ids": tested,
            },
            versions=library_versions(),
            recipe={
                "source": "import_unicorn",
                "folders": [task.path.name for task in tasks],
                "snapshots": snapshots,
            },
            discount=discount,
        )
        count = sum(math.prod(array["obs"].shape[:-1]) for array in files)
        trajectories = (
            trajectory
            for number, (task, arrays) in enumerate(zip(tasks, files, strict=True))
            for trajectory in _trajectories(number, task.path, arrays, steps, snapshots)
        )
        transitions = assemble(trajectories, count, room)
        return finish(transitions, manifest, output=output, overwrite=overwrite)


def _find_tasks(root: Path) -> list[_Task]:
    if not root.is_dir():
        raise DatasetError(f"{root} does not exist; give the folder of the data")
    found = []
    for path in root.iterdir():
        match = _TASK_FOLDER.fullmatch(path.name)
        if match and path.is_dir():
            seed = None if match["seed"] is None else int(match["seed"])
            found.append(_Task(path, seed, _numbers(match["goal"])))
    if not found:
        raise DatasetError(f"{root} contains no folders seed_*_goal_*; give the folder that contains them")
    seeds = [task.seed for task in found if task.seed is not None]
    if len(set(seeds)) != len(seeds) or len(seeds) not in (0, len(found)):
        raise DatasetError(
            f"{root}: every task's folder needs a seed_ number of its own, or none may have one"
        )
    return sorted(found, key=lambda task: (task.seed or 0, task.path.name))


def _numbers(goal: str) -> tuple[float, ...] | None:
    try:
        numbers = tuple(float(part) for part in goal.split("_"))
    except ValueError:
        return None
    return numbers if all(map(math.isfinite, numbers)) else None


def _parameters(tasks: list[_Task], given: Sequence[Sequence[float]] | None) -> list[list[float]]:
    if given is not None:
        if len(given) != len(tasks):
            raise DatasetError(f"parameters has {len(given)} rows, but there are {len(tasks)} task folders")
        return [list(row) for row in given]
    unread = next(
        (task for task in tasks if task.goal is None or len(task.goal) != len(tasks[0].goal or ())), None
    )
    if unread is not None:
        raise DatasetError(
            f"{unread.path}: its name does not say the task's parameters as numbers, as many as the others'; "
            "pass parameters=, one row per task"
        )
    return [list(task.goal or ()) for task in tasks]


def _open(folder: Path) -> dict[str, np.ndarray]:
    """Memory-map the five arrays of a task and check that their shapes agree."""
    arrays = {}
    for name in ARRAYS:
        file = folder / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise DatasetError(f"{file} is missing") from None
        except (OSError, ValueError, EOFError) as error:
            raise DatasetError(f"{file}: cannot be read as .npy ({error})") from error
    shape = arrays["obs"].shape
    if len(shape) not in (2, 3) or 0 in shape:
        raise DatasetError(
            f"{folder / 'obs.npy'}: has shape {list(shape)}, expected [steps, trajectories, features] or "
            "[transitions, features]"
        )
    for name, array in arrays.items():
        flat = name in ("rewards", "terminals") and array.shape in (shape[:-1], (*shape[:-1], 1))
        same = array.shape == shape if name in ("obs", "next_obs") else array.shape[:-1] == shape[:-1]
        if not (flat if name in ("rewards", "terminals") else same):
            raise DatasetError(
                f"{folder / f'{name}.npy'}: has shape {list(array.shape)}, which does not go with obs.npy's "
                f"{list(shape)}"
            )
    return arrays


def _trajectories(
    number: int, folder: Path, arrays: dict[str, np.ndarray], horizon: int, snapshots: int
) -> Iterator[Trajectory]:
    """The trajectories of a task, in the order of the file."""
    pieces = [
        piece
        for column in range(arrays["obs"].shape[1] if arrays["obs"].ndim == 3 else 1)
        for piece in _pieces(_column(folder, arrays, column), horizon)
    ]
    for order, entries in enumerate(pieces):
        yield Trajectory(str(folder), number, order * snapshots // len(pieces), {**entries})


def _column(folder: Path, arrays: dict[str, np.ndarray], column: int) -> dict[str, np.ndarray]:
    chosen = {name: array[:, column] if arrays["obs"].ndim == 3 else array for name, array in arrays.items()}
    read = {name: as_features(chosen[name], f"{folder / name}.npy") for name in ARRAYS[:-1]}
    return read | {"terminals": as_flags(chosen["terminals"], f"{folder}/terminals.npy")}


def _pieces(column: dict[str, np.ndarray], horizon: int) -> Iterator[dict[tuple[str, ...], np.ndarray]]:
    """Split consecutive rows at terminals, at gaps and at the horizon."""
    observation, following, terminal = column["obs"], column["next_obs"], column["terminals"]
    rows = len(observation)
    last = np.ones(rows, dtype=bool)
    breaks = ~np.isclose(observation[1:], following[:-1], rtol=_TOLERANCE, atol=_TOLERANCE).all(1)
    last[:-1] = terminal[:-1, 0] | breaks
    starts = np.concatenate([[0], np.flatnonzero(last)[:-1] + 1])
    step = np.arange(rows) - np.repeat(starts, np.diff([*starts, rows]))
    last |= step % horizon == horizon - 1
    first = 0
    for stop in np.flatnonzero(last) + 1:
        piece, end = slice(first, stop), last[first:stop, None]
        terminated = terminal[piece] & end
        yield {
            ("observation",): observation[piece],
            ("action",): column["actions"][piece],
            ("next", "observation"): following[piece],
            ("next", "reward"): column["rewards"][piece],
            ("next", "done"): end,
            ("next", "terminated"): terminated,
            ("next", "truncated"): end & ~terminated,
        }
        first = stop
