"""Builds a dataset from a stream of trajectories; a saved dataset may be larger than memory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.files import check_target
from ctmrl_torchrl.data.keys import key_name
from ctmrl_torchrl.data.manifest import DatasetManifest
from ctmrl_torchrl.storage import StorageError, clear_leftovers, new_file, temporary_path

Key = tuple[str, ...]


@dataclass(frozen=True)
class Trajectory:
    """One trajectory of an imported dataset.

    Args:
        where: source file or episode, for error messages.
        task, snapshot: its ids.
        entries: arrays or tensors ``[steps, ...]`` by key, without ids; flags must be bool.
    """

    where: str
    task: int
    snapshot: int
    entries: dict[Key, np.ndarray | Tensor]


def assemble(trajectories: Iterable[Trajectory], rows: int, folder: Path | None) -> TensorDict:
    """Copy trajectories in dataset order into one TensorDict of transitions.

    Args:
        trajectories: sorted by task, then by snapshot; read once, one at a time.
        rows: total number of transitions.
        folder: folder for memory-mapped tensors; None keeps them in memory.

    Raises:
        DatasetError: with the trajectory whose entries differ in length or from those of the first one, or if
            the transitions are not as many as ``rows``.
    """
    tensors: dict[Key, Tensor] = {}
    start = 0
    for number, trajectory in enumerate(trajectories):
        entries = {key: torch.as_tensor(value) for key, value in trajectory.entries.items()}
        count = _length(trajectory.where, entries)
        if start + count > rows:
            raise DatasetError(f"{trajectory.where}: has {count} steps, more than were counted beforehand")
        ids = {"task_id": trajectory.task, "trajectory_id": number, "snapshot_id": trajectory.snapshot}
        entries |= {(key,): torch.full((count,), value, dtype=torch.int64) for key, value in ids.items()}
        if not tensors:
            tensors = {
                key: _empty(key, (rows, *value.shape[1:]), value.dtype, folder)
                for key, value in entries.items()
            }
        _check_same(trajectory.where, entries, tensors)
        for key, value in entries.items():
            tensors[key][start : start + count] = value
        start += count
    if start != rows:
        raise DatasetError(f"the trajectories have {start} steps in all, but {rows} were counted beforehand")
    return TensorDict(
        {key if len(key) != 1 else key[0]: value for key, value in tensors.items()}, batch_size=[start]
    )


def _length(where: str, entries: dict[Key, Tensor]) -> int:
    """The number of steps, which all entries of a trajectory must share: rows are never repeated."""
    counts = {key_name(key): len(value) if value.ndim else 0 for key, value in entries.items()}
    first, count = next(iter(counts.items()))
    for name, other in counts.items():
        if other != count:
            raise DatasetError(f"{where}: {name} has {other} steps, but {first} has {count}")
    return count


def _check_same(where: str, entries: dict[Key, Tensor], tensors: dict[Key, Tensor]) -> None:
    differing = sorted(key_name(key) for key in entries.keys() ^ tensors.keys())
    if differing:
        raise DatasetError(f"{where}: some trajectories lack the entries {', '.join(differing)}")
    for key, value in entries.items():
        expected = tensors[key]
        if value.shape[1:] != expected.shape[1:] or value.dtype != expected.dtype:
            raise DatasetError(
                f"{where}: {key_name(key)} is {value.dtype} {list(value.shape[1:])} per step, but "
                f"in the first trajectory {expected.dtype} {list(expected.shape[1:])}"
            )


def _empty(key: Key, shape: tuple[int, ...], dtype: torch.dtype, folder: Path | None) -> Tensor:
    if folder is None or not torch.Size(shape).numel():
        return torch.empty(shape, dtype=dtype, device="cpu")
    file = folder.joinpath(f"{'.'.join(key)}.memmap")
    with new_file(file, torch.Size(shape).numel() * dtype.itemsize):
        pass
    return MemoryMappedTensor.from_filename(file, dtype=dtype, shape=torch.Size(shape))


@contextlib.contextmanager
def workspace(output: str | Path | None, overwrite: bool) -> Iterator[Path | None]:
    """Yield a temporary folder next to ``output`` for tensors larger than memory; None if output is None.

    Raises:
        DatasetError: before reading, if ``output`` cannot be written; later, if the disk is full.
    """
    if output is None:
        yield None
        return
    place = check_target(output, overwrite)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(place, lambda folder: all(file.suffix == ".memmap" for file in folder.iterdir()))
        folder = temporary_path(place)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except StorageError as error:
        raise DatasetError(str(error)) from error


def finish(
    transitions: TensorDict,
    manifest: DatasetManifest,
    *,
    steps: dict[int, int | None] | None = None,
    output: str | Path | None,
    overwrite: bool,
) -> TaskDataset:
    """Validate imported transitions, add the snapshots' mean returns, and optionally save them.

    Args:
        transitions: transitions in dataset order.
        manifest: a manifest without snapshots, which are added; existing snapshots are kept.
        steps: training step of each snapshot, if known.
        output: output folder; None keeps the dataset in memory.
        overwrite: replace a dataset at ``output``.
    """
    dataset = TaskDataset.from_tensordict(transitions, manifest)
    if not manifest.snapshots:
        returns = dataset.trajectory_returns(dataset.sizes().return_key)
        snapshots = [
            {
                "id": each,
                "step": (steps or {}).get(each),
                "mean_return": float(returns[dataset.trajectory_snapshot == each].mean()),
            }
            for each in dataset.snapshot_ids.tolist()
        ]
        dataset.manifest = dataset.manifest.replace(snapshots=snapshots)
    if output is None:
        return dataset
    return TaskDataset.load(dataset.save(output, overwrite=overwrite))


def as_flags(values: np.ndarray, where: str) -> np.ndarray:
    """Return flags as bool ``[steps, 1]``.

    Raises:
        DatasetError: if a value is neither 0 nor 1.
    """
    flags = np.asarray(values).reshape(len(values), -1)
    if flags.shape[1] != 1 or not np.isin(flags, (0, 1)).all():
        raise DatasetError(f"{where} must contain one flag per step, each 0 or 1")
    return flags.astype(bool)


def as_features(values: np.ndarray, where: str) -> np.ndarray:
    """Return numbers as float32 ``[steps, features]``.

    Raises:
        DatasetError: if they are not numbers, not finite, or too large for float32.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim < 1:
        raise DatasetError(f"{where} has dtype {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        flat = array.reshape(len(array), -1).astype(np.float32)
    if not np.isfinite(flat).all():
        row = int((~np.isfinite(flat)).any(1).argmax())
        raise DatasetError(f"{where} of step {row} is not finite as float32: {flat[row].tolist()}")
    return flat
