"""How contexts are drawn: which rows of the dataset make up the context of a task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ctmrl_torchrl.data.dataset import TaskDataset


@dataclass(frozen=True)
class ContextDraw:
    """What a context is made of.

    Args:
        kind: ``"trajectories"``: whole trajectories of a few behaviours, as at test time;
            ``"transitions"``: single transitions from anywhere in the task's data, as in the released code.
        length: transitions per context, for ``kind="transitions"``.
        trajectories: least and most trajectories of a context, uniform per task. Contexts are padded to
            ``most * horizon`` transitions, with ``("context", "mask")`` False.
        behaviours: least and most different snapshots that a context mixes (all of them where a task has
            fewer); each trajectory comes from one of them at random. None: every trajectory from any.
        near_random_fraction: with this probability the first behaviour is drawn among the near-random
            snapshots only, otherwise among all of the task's.
        near_random_snapshots: how many of a task's lowest snapshot ids count as near random.

    Raises:
        ValueError: naming the field that is out of range.

    Examples:
        >>> ContextDraw(trajectories=(5, 20)).context_length(horizon=20)
        400
        >>> ContextDraw(kind="transitions", length=256).context_length(horizon=20)
        256
    """

    kind: Literal["trajectories", "transitions"] = "trajectories"
    length: int = 400
    trajectories: tuple[int, int] = (5, 20)
    behaviours: tuple[int, int] | None = (1, 3)
    near_random_fraction: float = 0.5
    near_random_snapshots: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("trajectories", "transitions"):
            raise ValueError(f'ContextDraw.kind must be "trajectories" or "transitions", got {self.kind!r}')
        if self.length < 1:
            raise ValueError(f"ContextDraw.length must be at least 1, got {self.length}")
        for name in ("trajectories", "behaviours"):
            bounds = getattr(self, name)
            if bounds is None and name == "behaviours":
                continue
            try:
                least, most = bounds
                ok = 1 <= least <= most and int(least) == least and int(most) == most
            except (TypeError, ValueError):
                ok = False
            if not ok:
                raise ValueError(
                    f"ContextDraw.{name} must be (least, most), 1 <= least <= most, got {bounds!r}"
                )
            object.__setattr__(self, name, (int(least), int(most)))
        if not 0 <= self.near_random_fraction <= 1:
            raise ValueError(
                f"ContextDraw.near_random_fraction must be in [0, 1], got {self.near_random_fraction}"
            )
        if self.near_random_snapshots < 1:
            raise ValueError(
                f"ContextDraw.near_random_snapshots must be at least 1, got {self.near_random_snapshots}"
            )

    def context_length(self, horizon: int) -> int:
        """Return the padded number of transitions L of a context."""
        return self.length if self.kind == "transitions" else self.trajectories[1] * horizon


@dataclass(frozen=True)
class RowTable:
    """Offsets into a sorted dataset, so that draws need no search: compressed rows, as in a sparse matrix.

    A "group" is all trajectories of one task from one snapshot; groups of a task are consecutive and sorted
    by snapshot, trajectories of a group are consecutive. Tasks, here, are positions in ``dataset.task_ids``.

    Attributes:
        task_row_start, task_row_count: first transition of a task, and how many; ``[tasks]``.
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
    def of(cls, dataset: TaskDataset) -> RowTable:
        """Build the table of a dataset."""
        of_trajectory = torch.stack([dataset.trajectory_task, dataset.trajectory_snapshot])
        groups, group_count = of_trajectory.unique_consecutive(return_counts=True, dim=1)
        task_groups = groups[0].unique_consecutive(return_counts=True)[1]
        task_trajectories = dataset.trajectory_task.unique_consecutive(return_counts=True)[1]
        task_rows = dataset.transitions["task_id"].unique_consecutive(return_counts=True)[1]
        return cls(
            task_row_start=task_rows.cumsum(0) - task_rows,
            task_row_count=task_rows,
            task_trajectory_start=task_trajectories.cumsum(0) - task_trajectories,
            task_trajectory_count=task_trajectories,
            task_group_start=task_groups.cumsum(0) - task_groups,
            task_group_count=task_groups,
            group_trajectory_start=group_count.cumsum(0) - group_count,
            group_trajectory_count=group_count,
            trajectory_start=dataset.trajectory_start,
            trajectory_length=dataset.trajectory_length,
            horizon=dataset.horizon,
        )

    def draw_rows(self, task: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw ``count`` rows of each task, uniform and with replacement: ``[T, count]``."""
        return self.task_row_start[task, None] + _uniform(self.task_row_count[task, None], count, generator)

    def draw_context(
        self, task: Tensor, draw: ContextDraw, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        """Draw the context rows of each task, and their mask: int64 and bool ``[T, L]``.

        Rows where the mask is False are valid rows of the same task, and mean nothing.
        """
        if draw.kind == "transitions":
            rows = self.draw_rows(task, draw.length, generator)
            return rows, torch.ones_like(rows, dtype=torch.bool)
        least, most = draw.trajectories
        used = torch.randint(least, most + 1, (task.numel(), 1), generator=generator)
        if draw.behaviours is None:
            offset = _uniform(self.task_trajectory_count[task, None], most, generator)
            trajectory = self.task_trajectory_start[task, None] + offset
        else:
            group = self._draw_groups(task, draw, generator)
            offset = _uniform(self.group_trajectory_count[group], most, generator)
            trajectory = self.group_trajectory_start[group] + offset
        step = torch.arange(self.horizon)
        length = self.trajectory_length[trajectory][..., None]
        rows = self.trajectory_start[trajectory][..., None] + torch.minimum(step, length - 1)
        mask = (step < length) & (torch.arange(most) < used)[..., None]
        return rows.flatten(1), mask.flatten(1)

    def _draw_groups(self, task: Tensor, draw: ContextDraw, generator: torch.Generator | None) -> Tensor:
        """Draw the group of each of the most possible trajectories: ``[T, most]``."""
        least, most = draw.behaviours
        available = self.task_group_count[task, None]
        position = torch.arange(int(available.max()))
        # The groups of a task in random order: groups it does not have sort last, the first behaviour first.
        rank = torch.rand(task.numel(), position.numel(), generator=generator)
        rank = rank.masked_fill(position >= available, 2.0)
        near_random = torch.rand(task.numel(), 1, generator=generator) < draw.near_random_fraction
        candidates = torch.where(near_random, available.clamp(max=draw.near_random_snapshots), available)
        first = _uniform(candidates, 1, generator)
        order = rank.scatter(1, first, -1.0).argsort(1)
        mixed = torch.randint(least, most + 1, (task.numel(), 1), generator=generator)
        choice = _uniform(torch.minimum(mixed, available), draw.trajectories[1], generator)
        return self.task_group_start[task, None] + order.gather(1, choice)


def _uniform(bound: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Draw ``count`` integers from 0 to below ``bound`` in each row: bound ``[T, 1]`` or ``[T, count]``."""
    fraction = torch.rand(bound.shape[0], count, dtype=torch.float64, generator=generator)
    return torch.minimum((fraction * bound).long(), bound - 1)
