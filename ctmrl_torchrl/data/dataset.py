"""The offline meta-RL dataset: transitions of many tasks in one TensorDict, with a manifest."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from ctmrl_torchrl.data.buffer import MetaBatchSampler, MetaReplayBuffer
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.files import write_folder
from ctmrl_torchrl.data.keys import describe_keys, storable
from ctmrl_torchrl.data.layout import (
    FLAG_KEYS,
    ID_KEYS,
    REWARD_KEYS,
    check_batch_size,
    check_keys,
    check_layout,
    check_values,
)
from ctmrl_torchrl.data.manifest import TRANSITIONS_FOLDER, DatasetManifest
from ctmrl_torchrl.data.reading import read_folder
from ctmrl_torchrl.data.rows import RowTable
from ctmrl_torchrl.data.sizes import DatasetSizes, whole_numbers
from ctmrl_torchrl.data.statistics import Statistics, statistics_of
from ctmrl_torchrl.storage import expanded


class TaskDataset:
    """Offline data of a set of tasks: a flat, sorted TensorDict of transitions and a manifest.

    Rows are task-major, then by snapshot (behavior policy), then by trajectory, then time. Keys, with ``n``
    transitions:

    - ``observation``, ``action`` (in [-1, 1]), ``("next", "observation")``: float32 ``[n, d]``;
    - ``("next", "reward")`` and optionally ``("next", "sparse_reward")``: float32 ``[n, 1]``;
    - ``("next", "done")``, ``("next", "terminated")``, ``("next", "truncated")``: bool ``[n, 1]``;
    - ``task_id``, ``trajectory_id``, ``snapshot_id``: int64 ``[n]``.

    Create one with :meth:`load` (memory-mapped) or :meth:`from_tensordict` (in memory). The transitions are
    locked: entries cannot be added, replaced or removed. The tensors of a loaded dataset are mapped
    copy-on-write: in-place changes stay in memory. They never reach its files, and a pickle does not hold them.

    Attributes:
        transitions: the locked TensorDict, batch size ``[n]``.
        manifest: description of the data.
        path: the folder of a loaded dataset, or None.
        task_ids: sorted ids of the tasks that have data, ``[n_tasks]``.
        snapshot_ids: sorted ids of the snapshots that have data.
        trajectory_start, trajectory_length, trajectory_task, trajectory_snapshot: int64 ``[n_trajectories]``;
            first row, number of rows, task id and snapshot id of each trajectory.

    Raises:
        DatasetError: raised by the constructors if the data are invalid.

    Examples:
        >>> end = torch.tensor([[False], [True]])
        >>> flags = {"done": end, "terminated": torch.zeros_like(end), "truncated": end}
        >>> step = {"observation": torch.zeros(2, 2), "reward": torch.ones(2, 1), **flags}
        >>> transitions = TensorDict(
        ...     {"observation": torch.zeros(2, 2), "action": torch.zeros(2, 2), "next": step,
        ...      **{f"{key}_id": torch.zeros(2).long() for key in ("task", "trajectory", "snapshot")}}, [2])
        >>> tasks = {"parameters": [[0.0]], "parameter_names": ["goal"], "train_ids": [0], "test_ids": []}
        >>> manifest = DatasetManifest(env="toy", preset="repo", horizon=2, tasks=tasks)
        >>> TaskDataset.from_tensordict(transitions, manifest).trajectory_returns()
        tensor([2.])
    """

    def __init__(self, transitions: TensorDictBase, manifest: DatasetManifest, path: Path | None) -> None:
        self.transitions = transitions
        self.manifest = manifest
        self.path = path
        trajectory = transitions["trajectory_id"]
        self.trajectory_length = torch.bincount(trajectory)
        self.trajectory_start = self.trajectory_length.cumsum(0) - self.trajectory_length
        self.trajectory_task = transitions["task_id"][self.trajectory_start]
        self.trajectory_snapshot = transitions["snapshot_id"][self.trajectory_start]
        self.task_ids = self.trajectory_task.unique_consecutive()
        self.snapshot_ids = self.trajectory_snapshot.unique()

    @classmethod
    def from_tensordict(cls, transitions: TensorDictBase, manifest: DatasetManifest) -> TaskDataset:
        """Validate ``transitions`` and wrap them in memory, without a copy.

        Args:
            transitions: batch size ``[n]``, keys and order as above.
            manifest: description of the data; ``counts`` and ``keys`` are filled in.

        Raises:
            DatasetError: with the invalid key, task or row.
        """
        check_batch_size(transitions)
        with torch.device("cpu"):
            transitions = storable(transitions).lock_()
            check_keys(transitions)
            check_values(transitions)
            check_layout(transitions, manifest)
            dataset = cls(transitions, manifest, None)
        dataset.manifest = manifest.replace(
            counts=dataset._counts(),
            keys=describe_keys(transitions),
            checksums={},
            folder=TRANSITIONS_FOLDER,
        )
        return dataset

    @classmethod
    def load(cls, path: str | Path, *, verify: Literal["quick", "full"] = "quick") -> TaskDataset:
        """Open a saved dataset, memory-mapped copy-on-write, and validate it; its files are never changed.

        Args:
            path: the dataset's folder.
            verify: ``"quick"`` checks files, sizes, shapes, dtypes, values and the order of the rows;
                ``"full"`` also compares every file with its checksum.

        Raises:
            DatasetError: with the invalid file, key, task or row, and how to fix it.
        """
        if verify not in ("quick", "full"):
            raise ValueError(f'verify must be "quick" or "full", got {verify!r}')
        try:
            place = expanded(path)
            with torch.device("cpu"):
                transitions, manifest = read_folder(place, check_checksums=verify == "full")
                return cls._checked(transitions, manifest, place)
        except OSError as error:  # no permission, or the disk was removed
            raise DatasetError(f"{path} cannot be read ({error})") from error

    @classmethod
    def _checked(cls, transitions: TensorDict, manifest: DatasetManifest, path: Path) -> TaskDataset:
        """Validate and wrap the data read from ``path``."""
        try:
            check_batch_size(transitions)
            check_keys(transitions)
            check_values(transitions)
            check_layout(transitions, manifest)
            dataset = cls(transitions.lock_(), manifest, path)
            if manifest.counts != dataset._counts():
                raise DatasetError(
                    f"the manifest lists {manifest.counts}, the files contain {dataset._counts()}"
                )
        except DatasetError as error:
            raise DatasetError(
                f"{path}: {error}. The data were changed after they were saved; restore them from a copy, or "
                "collect the dataset again."
            ) from None
        return dataset

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Write the dataset to the folder ``path`` and return it.

        Writing is atomic. Disk space is reserved before anything is written.

        Args:
            path: the folder to create; ``~`` is the home folder, and links are followed.
            overwrite: replace an existing dataset in place once the new one is complete. Only the
                dataset's own files are deleted. A folder that is not a dataset is never changed.

        Raises:
            DatasetError: if ``path`` cannot be used or must not be replaced, or the disk is full.
        """
        return write_folder(path, self.transitions, self.manifest, overwrite=overwrite)

    @property
    def n_transitions(self) -> int:
        """Number of transitions."""
        return len(self.transitions)

    @property
    def n_trajectories(self) -> int:
        """Number of trajectories."""
        return self.trajectory_length.numel()

    @property
    def horizon(self) -> int:
        """The maximum length of a trajectory."""
        return self.manifest.horizon

    def __len__(self) -> int:
        return self.n_transitions

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(env={self.manifest.env!r}, tasks={self.task_ids.numel()}, "
            f"snapshots={self.snapshot_ids.numel()}, trajectories={self.n_trajectories}, "
            f"transitions={self.n_transitions}, path={str(self.path) if self.path else None!r})"
        )

    def task_index(self, task_ids: Sequence[int] | Tensor) -> Tensor:
        """Return the positions of ``task_ids`` in :attr:`task_ids`.

        Raises:
            ValueError: if none are given, one is not an integer, or the dataset has no data for one.
        """
        ids = whole_numbers(task_ids, "task_ids")
        if not ids.numel():
            raise ValueError("task_ids is empty; give at least one task id")
        unknown = ids[~torch.isin(ids, self.task_ids)].unique().tolist()
        if unknown:
            raise ValueError(
                f"the dataset has no data of the tasks {unknown}; it contains the tasks {self.task_ids.tolist()}"
            )
        return torch.searchsorted(self.task_ids, ids)

    def trajectory_returns(self, key: NestedKey = ("next", "reward")) -> Tensor:
        """Return the sum of ``key`` over each trajectory, float32 ``[n_trajectories]``.

        Raises:
            ValueError: if the dataset has no such reward.
        """
        self._require_reward(key)
        totals = torch.zeros(self.n_trajectories, dtype=torch.float64, device="cpu")
        rewards = self.transitions.get(key).flatten().double()
        return totals.index_add_(0, self.transitions["trajectory_id"], rewards).float()

    def statistics(
        self, task_ids: Sequence[int] | Tensor | None = None, return_key: NestedKey = ("next", "reward")
    ) -> dict[NestedKey, Statistics]:
        """Return the mean and standard deviation per feature, over all transitions of some tasks.

        Args:
            task_ids: the tasks to include (the training tasks for standardization); None includes all.
            return_key: a reward of another name than ``reward`` and ``sparse_reward``, to include it as well.

        Returns:
            ``{key: (mean, std)}``, float32 ``[features]``, for the observation, action, next observation,
            rewards, and ``"observation_change"``: the next observation minus the observation. The standard
            deviation is the population's. If it does not exceed the rounding error of the stored numbers,
            the feature is constant and its standard deviation is 0.

        Raises:
            ValueError: if the dataset has no data for a task, or no such reward.
        """
        self._require_reward(return_key)
        index = self.task_index(self.task_ids if task_ids is None else task_ids)
        counts, firsts = self.rows.task_row_count[index], self.rows.task_row_start[index]
        ranges = [(int(f), int(f + c)) for f, c in zip(firsts, counts, strict=True)]
        return statistics_of(self.transitions, ranges, list(dict.fromkeys([*REWARD_KEYS, return_key])))

    def sizes(self) -> DatasetSizes:
        """Return the problem description for modules and losses, as far as the data define it."""
        rewards = tuple(key for key in REWARD_KEYS if key in self.transitions.keys(include_nested=True))
        return DatasetSizes(
            observation_dim=self.transitions["observation"].shape[-1],
            action_dim=self.transitions["action"].shape[-1],
            reward_keys=rewards,
            horizon=self.horizon,
            discount=self.manifest.discount,
        )

    def replay_buffer(
        self,
        sampler: MetaBatchSampler,
        *,
        generator: torch.Generator | None = None,
        prefetch: int | None = None,
        transform: Callable[[TensorDictBase], TensorDictBase] | None = None,
        in_memory: bool = False,
        device: torch.device | str | None = None,
    ) -> MetaReplayBuffer:
        """Return a buffer whose ``sample()`` is the meta-batch of :class:`~ctmrl_torchrl.data.TaskSampler`.

        Args:
            sampler: a :class:`~ctmrl_torchrl.data.TaskSampler` of this dataset.
            generator: the CPU generator of all sampling; None uses torch's global generator.
            prefetch: number of batches sampled ahead in threads. More than 1 may reorder seeded batches.
            transform: a callable or TorchRL transform for the meta-batch.
            in_memory: copy the data into memory instead of reading the memory-mapped files.
            device: device of the data and the batches; implies a copy unless it is the CPU.

        Raises:
            ValueError: if the sampler was made for another dataset.
        """
        if sampler.dataset is not self:
            raise ValueError("the sampler was made for another dataset; pass TaskSampler(this_dataset, ...)")
        data: Any = self.transitions.exclude(*ID_KEYS)
        if in_memory:
            data = data.apply(_plain_copy)
        if device is not None:
            data = data.to(device)
        return MetaReplayBuffer(data, sampler, generator=generator, prefetch=prefetch, transform=transform)

    @functools.cached_property
    def rows(self) -> RowTable:
        """The index of trajectories by task and snapshot, created on first use."""
        return RowTable.of(
            self.trajectory_task, self.trajectory_snapshot, self.trajectory_length, horizon=self.horizon
        )

    def _require_reward(self, key: NestedKey) -> None:
        keys = set(self.transitions.keys(True, True))
        if key in keys:
            return
        taken = (("next", "observation"), *FLAG_KEYS)
        known = [each for each in keys if each[0] == "next" and each not in taken]
        raise ValueError(
            f"the dataset has no reward {key!r}; choose one of {', '.join(map(repr, sorted(known, key=str)))}"
        )

    def _counts(self) -> dict[str, int]:
        return {
            "transitions": self.n_transitions,
            "trajectories": self.n_trajectories,
            "tasks": self.task_ids.numel(),
            "snapshots": self.snapshot_ids.numel(),
        }


def _plain_copy(tensor: Tensor) -> Tensor:
    """Copy into memory; a clone of a memory-mapped tensor may stay memory-mapped."""
    return torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
