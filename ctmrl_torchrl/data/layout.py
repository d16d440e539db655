"""Checks of a dataset's transitions: keys, shapes, dtypes, values, and the order of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.keys import key_name
from ctmrl_torchrl.data.manifest import DatasetManifest

ID_KEYS = ("task_id", "trajectory_id", "snapshot_id")
FLAG_KEYS = (("next", "done"), ("next", "terminated"), ("next", "truncated"))
REQUIRED_KEYS = ("observation", "action", ("next", "observation"), ("next", "reward"), *FLAG_KEYS, *ID_KEYS)
REWARD_KEYS = (("next", "reward"), ("next", "sparse_reward"))
ORDER = "task-major, then by snapshot, then by trajectory, then time"
# float32 rounding of tanh and of affine maps may exceed the bound by a few ulp
ACTION_TOLERANCE = 1e-5
#: largest number in a dataset; the sum of its squares over all rows does not overflow float32
LARGEST = 1e15
_CONVERSIONS = {torch.bool: ".bool()", torch.int64: ".long()", torch.float32: ".float()"}
#: rows per block when reading
BLOCK_ROWS = 1 << 20


def row_blocks(first: int, stop: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` rows, so that data may be larger than memory."""
    for start in range(first, stop, size):
        yield slice(start, min(start + size, stop))


def check_batch_size(transitions: TensorDictBase) -> None:
    """Check that the transitions have batch size ``[n]`` with n > 0.

    Raises:
        DatasetError: with their type or batch size.
    """
    if not isinstance(transitions, TensorDictBase):
        raise DatasetError(f"transitions must be a TensorDict, got {type(transitions).__name__}")
    if len(transitions.batch_size) != 1 or not len(transitions):
        raise DatasetError(
            f"transitions must have batch size [n] with n > 0, got {list(transitions.batch_size)}"
        )


def check_keys(transitions: TensorDictBase) -> None:
    """Check that every required key exists and has the right shape and dtype.

    Flags must be bool and are not converted: for other dtypes, ``~flag`` is not the logical negation, and
    targets would silently be wrong.

    Raises:
        DatasetError: with the key, its shape and dtype, and the expected ones.
    """
    present: dict[Any, Any] = dict(transitions.items(include_nested=True, leaves_only=True))
    missing = [key_name(key) for key in REQUIRED_KEYS if key not in present]
    if missing:
        raise DatasetError(f"transitions lack the keys {', '.join(missing)}; present: {_names(present)}")
    for key, value in present.items():
        name, tail = key_name(key), list(value.shape[1:])
        if key in ID_KEYS:
            _expect(name, value, torch.int64, tail == [], "[n]")
        elif key in FLAG_KEYS:
            _expect(name, value, torch.bool, tail == [1], "[n, 1]")
        elif key in REWARD_KEYS:
            _expect(name, value, torch.float32, tail == [1], "[n, 1]")
        elif key in ("observation", "action", ("next", "observation")):
            _expect(name, value, torch.float32, len(tail) == 1 and tail[0] > 0, "[n, features]")
    if present["observation"].shape != present["next", "observation"].shape:
        raise DatasetError(
            f"observation has shape {list(present['observation'].shape)} but next.observation "
            f"{list(present['next', 'observation'].shape)}; they must be equal"
        )


def check_values(transitions: TensorDictBase) -> None:
    """Check that all numbers are finite and not too large, and that actions are in [-1, 1].

    Raises:
        DatasetError: with the key, the row and its task.
    """
    for block in row_blocks(0, len(transitions)):
        rows: Any = transitions[block]
        first = block.start
        task_id, action = rows["task_id"], rows["action"]
        for key, value in rows.items(include_nested=True, leaves_only=True):
            if value.is_floating_point():
                problem = f"{key_name(key)} is not finite (NaN or Inf)"
                _all_rows(value.isfinite(), problem, value, task_id, first)
                problem = f"{key_name(key)} exceeds {LARGEST:g}, so sums of squares would overflow"
                _all_rows(value.abs() <= LARGEST, problem, value, task_id, first)
        in_range = action.abs() <= 1 + ACTION_TOLERANCE
        _all_rows(
            in_range,
            "action is outside [-1, 1] (scale it before storing)",
            action,
            task_id,
            first,
        )


def check_layout(transitions: TensorDictBase, manifest: DatasetManifest) -> None:
    """Check ids, the order of the rows, and the ends and lengths of episodes.

    Raises:
        DatasetError: with the row and its task or trajectory.
    """
    task, trajectory, snapshot = (transitions[key] for key in ID_KEYS)
    _all_rows(
        (task >= 0) & (task < manifest.n_tasks), f"task_id is outside 0..{manifest.n_tasks - 1}", task, task
    )
    _all_rows(snapshot >= 0, "snapshot_id is negative", snapshot, task)
    if manifest.snapshots:
        known = snapshot.new_tensor([entry["id"] for entry in manifest.snapshots])
        _all_rows(torch.isin(snapshot, known), "snapshot_id is not among manifest.snapshots", snapshot, task)
    if trajectory[0] != 0:
        raise DatasetError(
            f"trajectory_id of row 0 is {int(trajectory[0])}; ids must start at 0 and have no gaps"
        )

    same_trajectory = trajectory[1:] == trajectory[:-1]
    same_task = task[1:] == task[:-1]
    same_snapshot = snapshot[1:] == snapshot[:-1]
    after = slice(1, None)
    _all_rows(
        same_trajectory | (trajectory[1:] == trajectory[:-1] + 1),
        "trajectory_id neither equals that of the previous row nor increases by one",
        trajectory[after],
        task[after],
        first=1,
    )
    _all_rows(
        ~same_trajectory | (same_task & same_snapshot),
        "task_id or snapshot_id changes within a trajectory",
        trajectory[after],
        task[after],
        first=1,
    )
    _all_rows(task[1:] >= task[:-1], f"rows are not sorted ({ORDER})", task[after], task[after], first=1)
    _all_rows(
        (snapshot[1:] >= snapshot[:-1]) | ~same_task,
        f"rows are not sorted by snapshot_id within a task ({ORDER})",
        snapshot[after],
        task[after],
        first=1,
    )

    done, terminated, truncated = (transitions[key].squeeze(-1) for key in FLAG_KEYS)
    _all_rows(
        done == (terminated | truncated), "next.done is not (next.terminated or next.truncated)", done, task
    )
    last = torch.cat([~same_trajectory, torch.ones_like(same_trajectory[:1])])
    _all_rows(
        done == last, "next.done must be true on the last row of each trajectory, and only there", done, task
    )
    lengths = torch.bincount(trajectory)
    if int(lengths.max()) > manifest.horizon:
        longest = int(lengths.argmax())
        raise DatasetError(
            f"trajectory {longest} has {int(lengths[longest])} transitions, more than the horizon "
            f"{manifest.horizon} of the manifest"
        )


def _expect(name: str, value: Tensor, dtype: torch.dtype, shape_ok: bool, shape: str) -> None:
    if value.dtype == dtype and shape_ok:
        return
    hints = []
    if value.dtype != dtype:
        hints.append(f"convert it with {_CONVERSIONS[dtype]}")
        if dtype == torch.int64 and value.is_floating_point() and not (value == value.round()).all():
            hints = ["its values are not integers; ids count from 0"]
    if not shape_ok:
        hints.append("reshape it")
    raise DatasetError(
        f"{name} is {value.dtype} {list(value.shape)}, expected {dtype} {shape}; {' and '.join(hints)}"
    )


def _all_rows(ok: Tensor, problem: str, value: Tensor, task_id: Tensor, first: int = 0) -> None:
    """Raise an error for the first invalid row; ``first`` is the dataset row of ``ok[0]``."""
    if ok.all():
        return
    bad = (~ok).flatten(1).any(1) if ok.ndim > 1 else ~ok
    row = int(bad.nonzero()[0])
    raise DatasetError(
        f"{problem}: row {row + first} (task {int(task_id[row])}) has {value[row].tolist()}; "
        f"{int(bad.sum())} of {bad.numel()} rows are affected"
    )


def _names(present: dict) -> str:
    return ", ".join(sorted(key_name(key) for key in present))
