"""Samples the tasks, policy transitions and contexts of meta-batches."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor
from torch.nn import functional
from torchrl.data.replay_buffers import Sampler

from ctmrl_torchrl.data.best import BestRows
from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.draws import ContextDraw
from ctmrl_torchrl.data.layout import ID_KEYS
from ctmrl_torchrl.rules import is_number


class TaskSampler(Sampler):
    """Samples the rows of a meta-batch: T tasks, with B policy transitions and one or two contexts of L each.

    Used by :meth:`TaskDataset.replay_buffer`, whose ``sample()`` is a TensorDict of batch size ``[T]``:

    ===================== ============= ==========================================================
    key                   shape         what
    ===================== ============= ==========================================================
    ``task_id``           [T] int64     task ids of the dataset
    ``transitions``       TD [T, B]     ``observation``, ``action``, ``next``: uniform over the task
    ``context``           TD [T, L]     the same keys and ``mask`` (bool [T, L]; False is padding)
    ``context_positive``  TD [T, L]     a second, independent draw, with ``num_contexts=2``
    ===================== ============= ==========================================================

    The sampler returns one index tensor ``[T, B + num_contexts * L]``. All randomness comes from the buffer's
    generator, so the buffer's ``state_dict`` resumes sampling exactly.

    Args:
        dataset: the dataset to sample from.
        task_ids: the tasks to sample from.
        tasks_per_batch: T; None uses all of ``task_ids``, in order.
        transitions_per_task: B.
        context: settings of context sampling.
        num_contexts: 1, or 2 for losses that compare two contexts of a task.
        best_share: share of each task's trajectories, those with the highest returns, that policy transitions
            come from while :attr:`best_only` is set; at least one trajectory.
        return_key: the reward by which trajectories are ranked.
        repeat_tasks: sample tasks with replacement. (Not called ``replacement``, because TorchRL's sampler
            metaclass uses that argument.)

    Attributes:
        best_only (bool): whether policy transitions come from the best trajectories only; ``False`` at first.
            Contexts always come from all trajectories.

    Raises:
        ValueError: with the argument that is out of range, or the task without data.

    Examples:
        >>> from ctmrl_torchrl.data import CollectionRecipe, ContextDraw, collect_task_dataset
        >>> recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
        >>> dataset = collect_task_dataset("point_robot", recipe=recipe)
        >>> sampler = TaskSampler(
        ...     dataset, task_ids=dataset.manifest.train_ids, tasks_per_batch=16, transitions_per_task=128,
        ...     context=ContextDraw(trajectories=(1, 4)))
        >>> buffer = dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(0))
        >>> batch = buffer.sample()
        >>> batch["transitions"].batch_size, batch["context"].batch_size  # four episodes of 20 steps
        (torch.Size([16, 128]), torch.Size([16, 80]))
    """

    def __init__(
        self,
        dataset: TaskDataset,
        *,
        task_ids: Sequence[int] | Tensor,
        tasks_per_batch: int | None,
        transitions_per_task: int,
        context: ContextDraw,
        num_contexts: Literal[1, 2] = 2,
        repeat_tasks: bool = False,
        best_share: float = 1.0,
        return_key: NestedKey = ("next", "reward"),
    ) -> None:
        self.dataset = dataset
        self._tasks = dataset.task_index(task_ids)
        available = self._tasks.numel()
        if self._tasks.unique().numel() != available:
            raise ValueError(f"task_ids repeats a task: {self.task_ids.tolist()}")
        if tasks_per_batch is not None and not _is_count(tasks_per_batch):
            raise ValueError(f"tasks_per_batch must be at least 1 or None, got {tasks_per_batch!r}")
        if tasks_per_batch is not None and tasks_per_batch > available and not repeat_tasks:
            raise ValueError(
                f"tasks_per_batch is {tasks_per_batch}, but there are only {available} tasks; "
                "use fewer, or repeat_tasks=True"
            )
        if not _is_count(transitions_per_task):
            raise ValueError(f"transitions_per_task must be at least 1, got {transitions_per_task!r}")
        if num_contexts not in (1, 2):
            raise ValueError(f"num_contexts must be 1 or 2, got {num_contexts!r}")
        if not is_number(best_share) or not 0.0 < best_share <= 1.0:
            raise ValueError(f"best_share must be above 0 and at most 1, got {best_share!r}")
        self.best_share = best_share
        self.best_only = False
        self._best = None
        if best_share < 1.0:
            self._best = BestRows.of(dataset.rows, dataset.trajectory_returns(return_key), best_share)
        self.tasks_per_batch = None if tasks_per_batch is None else int(tasks_per_batch)
        self.transitions_per_task = int(transitions_per_task)
        self.context = context
        self.num_contexts = num_contexts
        self.repeat_tasks = repeat_tasks

    @property
    def task_ids(self) -> Tensor:
        """The tasks from which batches are sampled."""
        return self.dataset.task_ids[self._tasks]

    @property
    def context_length(self) -> int:
        """Transitions of a context, padding included."""
        return self.context.context_length(self.dataset.horizon)

    @property
    def sections(self) -> list[int]:
        """Sizes of the column blocks of the index: B, then L for each context."""
        return [self.transitions_per_task, *[self.context_length] * self.num_contexts]

    @property
    def batch_size(self) -> int:
        """Number of rows of one sample, over all tasks: T * (B + num_contexts * L)."""
        tasks = self._tasks.numel() if self.tasks_per_batch is None else self.tasks_per_batch
        return tasks * sum(self.sections)

    def sample(self, storage: Any, batch_size: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Sample one meta-batch.

        Args:
            storage: a storage with the rows of the dataset.
            batch_size: must be :attr:`batch_size`.

        Returns:
            the index ``[T, B + num_contexts * L]``, and ``task_id`` and ``mask`` of the same shape.
        """
        if batch_size != self.batch_size:
            raise ValueError(
                f"batch_size {batch_size}: this sampler returns {self.batch_size} rows at a time; "
                "change tasks_per_batch, transitions_per_task or context instead"
            )
        if len(storage) != self.dataset.n_transitions:
            raise ValueError(
                f"the storage has {len(storage)} rows, the sampler's dataset {self.dataset.n_transitions}"
            )
        rows, generator = self.dataset.rows, self._rng
        task = self._draw_tasks(generator)
        source = rows.draw_rows if self._best is None or not self.best_only else self._best.draw
        policy = source(task, self.transitions_per_task, generator)
        contexts = rows.draw_contexts(task, self.context, self.num_contexts, generator)
        index = torch.cat([policy, *(index for index, _ in contexts)], 1)
        mask = torch.cat([mask for _, mask in contexts], 1)
        mask = functional.pad(mask, (self.transitions_per_task, 0), value=True)
        return index, {"task_id": self.dataset.task_ids[task, None].expand(index.shape), "mask": mask}

    def sample_context(
        self, task_ids: Sequence[int] | Tensor, generator: torch.Generator | None = None
    ) -> TensorDict:
        """Sample a context of each of ``task_ids``, which may be any tasks; see :func:`draw_context`."""
        return draw_context(self.dataset, task_ids, self.context, generator)

    def _draw_tasks(self, generator: torch.Generator | None) -> Tensor:
        if self.tasks_per_batch is None:
            return self._tasks
        available, device = self._tasks.numel(), self._tasks.device
        if self.repeat_tasks:
            return self._tasks[
                torch.randint(available, (self.tasks_per_batch,), generator=generator, device=device)
            ]
        return self._tasks[
            torch.randperm(available, generator=generator, device=device)[: self.tasks_per_batch]
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dictionary, because all state is in the buffer's generator."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing; see :meth:`state_dict`."""

    def dumps(self, path: str | Path) -> None:
        """Write nothing; see :meth:`state_dict`."""

    def loads(self, path: str | Path) -> None:
        """Do nothing; see :meth:`state_dict` (there is no state to load)."""

    def _empty(self) -> None:
        """Do nothing, because the dataset cannot be emptied."""

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(tasks={self._tasks.numel()}, tasks_per_batch={self.tasks_per_batch}, "
            f"transitions_per_task={self.transitions_per_task}, context={self.context}, "
            f"num_contexts={self.num_contexts}, repeat_tasks={self.repeat_tasks}, best_share={self.best_share})"
        )


def _is_count(value: Any) -> bool:
    """Whether it is an integer of at least 1, also NumPy's."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def draw_context(
    dataset: TaskDataset,
    task_ids: Sequence[int] | Tensor,
    draw: ContextDraw,
    generator: torch.Generator | None = None,
) -> TensorDict:
    """Sample a context of each task, e.g. for evaluating test tasks with their offline data.

    Args:
        dataset: the dataset to sample from.
        task_ids: task ids ``[T]``; may repeat, for several contexts of a task.
        draw: settings of context sampling.
        generator: source of randomness; None uses torch's global generator.

    Returns:
        TensorDict ``[T, L]``: ``observation``, ``action``, ``next`` and ``mask`` (bool ``[T, L]``).

    Raises:
        ValueError: if the dataset has no data for a task.

    Examples:
        >>> from ctmrl_torchrl.data import CollectionRecipe, ContextDraw, collect_task_dataset
        >>> recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
        >>> dataset = collect_task_dataset("point_robot", recipe=recipe)
        >>> context = draw_context(dataset, [2, 6], ContextDraw(trajectories=(1, 4)))
        >>> context.batch_size, context["mask"].sum(1).min() >= 20  # one episode at least, the rest padding
        (torch.Size([2, 80]), tensor(True))
    """
    rows, mask = dataset.rows.draw_context(dataset.task_index(task_ids), draw, generator)
    drawn: Any = dataset.transitions.exclude(*ID_KEYS)[rows]
    return drawn.set("mask", mask)


def draw_episode(
    dataset: TaskDataset, task_ids: Tensor, generator: torch.Generator | None = None
) -> TensorDict:
    """Sample one complete trajectory of each task, from a random snapshot of its behavior: protocol ``offline``.

    Args:
        dataset, task_ids, generator: as for :func:`draw_context`.

    Returns:
        TensorDict ``[T, H]`` with ``mask``.

    Examples:
        >>> from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
        >>> recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
        >>> dataset = collect_task_dataset("point_robot", recipe=recipe)
        >>> draw_episode(dataset, torch.tensor([2, 6])).batch_size
        torch.Size([2, 20])
    """
    one = ContextDraw(trajectories=(1, 1), behaviours=None, near_random_fraction=0.0)
    return draw_context(dataset, task_ids, one, generator)
