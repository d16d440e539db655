"""Rows of the best trajectories of each task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ctmrl_torchrl.data.rows import RowTable, uniform


@dataclass(frozen=True)
class BestRows:
    """The transitions of each task's trajectories with the highest returns, for sampling without search.

    Attributes:
        rows: the rows that are kept, by task; ``[kept]``.
        start, count: first entry of a task in ``rows`` and number of its entries; ``[tasks]``.

    Examples:
        >>> table = RowTable.of(
        ...     torch.tensor([3, 3, 7]), torch.tensor([0, 1, 1]), torch.tensor([2, 3, 1]), horizon=4)
        >>> best = BestRows.of(table, torch.tensor([1.0, 2.0, 5.0]), share=0.5)
        >>> best.rows.tolist()
        [2, 3, 4, 5]
    """

    rows: Tensor
    start: Tensor
    count: Tensor

    @classmethod
    def of(cls, table: RowTable, returns: Tensor, share: float) -> BestRows:
        """Keep ``share`` of each task's trajectories, at least one.

        Args:
            table: the trajectories. returns: their returns ``[trajectories]``. share: from 0 to 1.
        """
        number, tasks = table.task_trajectory_count, table.task_trajectory_count.numel()
        task = torch.arange(tasks, device=number.device).repeat_interleave(number)
        by_return = returns.argsort(descending=True, stable=True)
        order = by_return[task[by_return].argsort(stable=True)]  # by task, the best trajectory first
        rank = torch.arange(task.numel(), device=task.device) - table.task_trajectory_start[task]
        best = order[rank < (share * number).round().clamp(min=1)[task]].sort().values
        length = table.trajectory_length[best]
        before = length.cumsum(0) - length
        offset = torch.arange(int(length.sum()), device=length.device) - before.repeat_interleave(length)
        rows = table.trajectory_start[best].repeat_interleave(length) + offset
        count = torch.zeros_like(number).index_add_(0, task[best], length)
        return cls(rows, count.cumsum(0) - count, count)

    def draw(self, task: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Sample ``count`` rows of each task uniformly with replacement: ``[T, count]``."""
        return self.rows[self.start[task, None] + uniform(self.count[task, None], count, generator)]
