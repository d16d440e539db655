"""An index of trajectories by task and snapshot, and sampling of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctmrl_torchrl.data.draws import ContextDraw


@dataclass(frozen=True)
class RowTable:
    """Offsets into a sorted dataset for sampling without search, as in a compressed sparse matrix.

    A "group" is all trajectories of one task from one snapshot; groups of a task are consecutive and sorted
    by snapshot, trajectories of a group are consecutive. Tasks are positions among the tasks with data, in the
    order of their ids. The table only depends on tensors, not on datasets.

    Attributes:
        task_row_start, task_row_count: first transition of a task and their number; ``[tasks]``.
        task_trajectory_start, task_trajectory_count: the same for trajectories; ``[tasks]``.
        task_group_start, task_group_count: the same for groups; ``[tasks]``.
        group_trajectory_start, group_trajectory_count: trajectories of a group; ``[groups]``.
        trajectory_start, trajectory_length: transitions of a trajectory; ``[trajectories]``.
        horizon: longest possible trajectory.
    """

    task_row_start: Tensor
    task_row_count: Tensor
    task_trajectory_start: Tensor
    task_trajectory_count: Tensor
    task_group_start: Tensor
    task_group_count: Tensor
    group_trajectory_start: Tensor
    group_trajectory_count: Tensor
    trajectory_start: Tensor
    trajectory_length: Tensor
    horizon: int

    @classmethod
    def of(cls, task: Tensor, snapshot: Tensor, length: Tensor, *, horizon: int) -> RowTable:
        """Build the table of sorted trajectories.

        Args:
            task, snapshot, length: task id, snapshot id and number of transitions of each trajectory, int64
                ``[trajectories]``, sorted by task, then by snapshot.
            horizon: longest possible trajectory.

        Examples:
            >>> table = RowTable.of(
            ...     torch.tensor([3, 3, 7]), torch.tensor([0, 1, 1]), torch.tensor([2, 4, 1]), horizon=4)
            >>> table.task_row_start.tolist(), table.task_row_count.tolist()
            ([0, 6], [6, 1])
        """
        groups, group_count = torch.stack([task, snapshot]).unique_consecutive(return_counts=True, dim=1)
        task_groups = groups[0].unique_consecutive(return_counts=True)[1]
        _, position, task_trajectories = task.unique_consecutive(return_inverse=True, return_counts=True)
        task_rows = torch.zeros_like(task_trajectories).index_add_(0, position, length)
        return cls(
            task_row_start=task_rows.cumsum(0) - task_rows,
            task_row_count=task_rows,
            task_trajectory_start=task_trajectories.cumsum(0) - task_trajectories,
            task_trajectory_count=task_trajectories,
            task_group_start=task_groups.cumsum(0) - task_groups,
            task_group_count=task_groups,
            group_trajectory_start=group_count.cumsum(0) - group_count,
            group_trajectory_count=group_count,
            trajectory_start=length.cumsum(0) - length,
            trajectory_length=length,
            horizon=horizon,
        )

    def draw_rows(self, task: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Sample ``count`` rows of each task uniformly with replacement: ``[T, count]``."""
        return self.task_row_start[task, None] + uniform(self.task_row_count[task, None], count, generator)

    def draw_context(
        self, task: Tensor, draw: ContextDraw, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Sample the context rows of each task and their mask: int64 and bool ``[T, L]``.

        Rows where the mask is False are valid rows of the same task that belong to no context.
        """
        if draw.kind == "transitions":
            rows = self.draw_rows(task, draw.length, generator)
            return rows, torch.ones_like(rows, dtype=torch.bool)
        least, most = draw.trajectories
        used = torch.randint(least, most + 1, (task.numel(), 1), generator=generator, device=task.device)
        if draw.different:
            return self._rows_of(self._draw_different(task, most, generator), used)
        if draw.behaviours is None:
            offset = uniform(self.task_trajectory_count[task, None], most, generator)
            trajectory = self.task_trajectory_start[task, None] + offset
        else:
            group = self._draw_groups(task, draw, generator)
            offset = uniform(self.group_trajectory_count[group], most, generator)
            trajectory = self.group_trajectory_start[group] + offset
        return self._rows_of(trajectory, used)

    def draw_contexts(
        self, task: Tensor, draw: ContextDraw, number: int, generator: torch.Generator | None
    ) -> list[tuple[Tensor, Tensor]]:
        """Sample ``number`` contexts of each task with :meth:`draw_context`."""
        if not draw.different or number == 1:
            return [self.draw_context(task, draw, generator) for _ in range(number)]
        least, most = draw.trajectories
        drawn = self._draw_different(task, number * most, generator).split(most, 1)
        sizes = (task.numel(), 1)
        used = [torch.randint(least, most + 1, sizes, generator=generator, device=task.device) for _ in drawn]
        return [self._rows_of(*each) for each in zip(drawn, used, strict=True)]

    def _draw_different(self, task: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Sample trajectories of each task without replacement: ``[T, count]``."""
        available = self.task_trajectory_count[task, None]
        if count > int(available.min()):
            raise ValueError(
                f"ContextDraw.different: needs {count} different trajectories per task, but a task has only "
                f"{int(available.min())}; use fewer trajectories, or different=False"
            )
        position = torch.arange(int(available.max()), device=task.device)
        rank = torch.rand(task.numel(), position.numel(), generator=generator, device=task.device)
        order = rank.masked_fill(position >= available, 2.0).argsort(1)
        return self.task_trajectory_start[task, None] + order[:, :count]

    def _rows_of(self, trajectory: Tensor, used: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and mask of trajectories ``[T, most]``, of which the first ``used`` ``[T, 1]`` are valid."""
        most = trajectory.shape[1]
        step = torch.arange(self.horizon, device=trajectory.device)
        length = self.trajectory_length[trajectory][..., None]
        rows = self.trajectory_start[trajectory][..., None] + torch.minimum(step, length - 1)
        mask = (step < length) & (torch.arange(most, device=trajectory.device) < used)[..., None]
        return rows.flatten(1), mask.flatten(1)

    def _draw_groups(self, task: Tensor, draw: ContextDraw, generator: torch.Generator | None) -> Tensor:
        """Sample the group of each of the ``most`` trajectories: ``[T, most]``."""
        assert draw.behaviours is not None
        least, most = draw.behaviours
        of_task: dict[str, Any] = {"device": task.device, "dtype": torch.float32}
        available = self.task_group_count[task, None]
        position = torch.arange(int(available.max()), device=task.device)
        # A random order of the task's groups: the first behavior comes first, missing groups last.
        rank = torch.rand(task.numel(), position.numel(), generator=generator, **of_task)
        rank = rank.masked_fill(position >= available, 2.0)
        near_random = torch.rand(task.numel(), 1, generator=generator, **of_task) < draw.near_random_fraction
        candidates = torch.where(near_random, available.clamp(max=draw.near_random_snapshots), available)
        first = uniform(candidates, 1, generator)
        order = rank.scatter(1, first, -1.0).argsort(1)
        mixed = torch.randint(least, most + 1, (task.numel(), 1), generator=generator, device=task.device)
        choice = uniform(torch.minimum(mixed, available), draw.trajectories[1], generator)
        return self.task_group_start[task, None] + order.gather(1, choice)


def uniform(bound: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Sample ``count`` integers in [0, ``bound``) in each row: bound ``[T, 1]`` or ``[T, count]``."""
    shape = (bound.shape[0], count)
    fraction = torch.rand(shape, dtype=torch.float64, generator=generator, device=bound.device)
    return torch.minimum((fraction * bound).long(), bound - 1)
