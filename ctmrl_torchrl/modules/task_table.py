"""A table of task contexts instead of an encoder: one learned Gaussian per training task."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from tensordict.nn import InteractionType, TensorDictModuleBase
from tensordict.nn.probabilistic import interaction_type
from tensordict.utils import NestedKey
from torch import Tensor, nn

from ctmrl_torchrl.modules.draws import normal_like, uniform
from ctmrl_torchrl.modules.keys import read


class TaskTable(TensorDictModuleBase):
    """Looks up the context of a task: ``mean + exp(log_std) * noise`` of the task's row.

    Args:
        task_ids (sequence of int): the training tasks, in the order of the rows.
        context_dim (int): d.

    Keyword Args:
        noisy (bool): whether a lookup samples from the Gaussian; otherwise, and within
            ``set_interaction_type(InteractionType.DETERMINISTIC)``, it returns the mean.
        in_key (NestedKey): key of task ids, ``[*]`` int64. Defaults to ``"task_id"``.
        out_key (NestedKey): key of contexts, ``[*, d]``. Defaults to ``"task_context"``.
        statistic_keys (pair of NestedKey): keys of mean and log standard deviation of the tasks' Gaussians.
        generator (torch.Generator, optional): samples the initial means from a standard normal.

    Attributes:
        mean, log_std (Tensor): ``[tasks, d]``, both learned; log_std starts at 0.

    Raises:
        ValueError: if a task is listed twice, or task ids are not integers.

    Looking up a task that is not in the table returns NaN, which makes every loss NaN. Checking earlier would
    require a device synchronization.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> from tensordict import TensorDict
        >>> table = TaskTable([4, 0, 7], context_dim=5)
        >>> table(TensorDict({"task_id": torch.tensor([7, 7, 4, 0])}, [4]))["task_context"].shape
        torch.Size([4, 5])
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]
    task_ids: Tensor

    def __init__(
        self,
        task_ids: Sequence[int],
        context_dim: int,
        *,
        noisy: bool = True,
        in_key: NestedKey = "task_id",
        out_key: NestedKey = "task_context",
        statistic_keys: tuple[NestedKey, NestedKey] = ("task_context_mean", "task_context_log_std"),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        numbers = torch.as_tensor(list(task_ids))
        if numbers.is_floating_point() or numbers.unique().numel() != numbers.numel() or not numbers.numel():
            raise ValueError(
                f"TaskTable: task_ids={list(task_ids)}; give the id of every training task once."
            )
        self.in_keys, self.out_keys = [in_key], [*statistic_keys, out_key]
        self.noisy = noisy
        self.register_buffer("task_ids", numbers)
        self.mean = nn.Parameter(torch.randn(len(numbers), context_dim, generator=generator))
        self.log_std = nn.Parameter(torch.zeros(len(numbers), context_dim))

    def reset_parameters_recursive(self, parameters: TensorDictBase | None = None) -> TensorDictBase | None:
        """Draw new means from a standard normal and set the standard deviations to 1."""
        nn.init.normal_(self.mean)
        nn.init.zeros_(self.log_std)
        return parameters

    def lookup(self, task_id: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation of tasks ``[*]``, each ``[*, d]``; NaN for unknown tasks."""
        same = task_id.unsqueeze(-1) == self.task_ids
        row, known = same.int().argmax(-1), same.any(-1).unsqueeze(-1)
        return torch.where(known, self.mean[row], torch.nan), self.log_std[row]

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the context of every row's task."""
        task_id = read(tensordict, self.in_keys[0], str(type(self).__name__))
        if task_id.is_floating_point():
            raise ValueError(
                f"TaskTable: {self.in_keys[0]!r} must hold integer task ids, got {task_id.dtype}."
            )
        mean, log_std = self.lookup(task_id)
        exact = interaction_type() in (InteractionType.DETERMINISTIC, InteractionType.MEAN)
        noise = torch.randn_like(mean) if self.noisy and not exact else 0.0
        values = (mean, log_std, mean + log_std.exp() * noise)
        for key, value in zip(self.out_keys, values, strict=True):
            tensordict.set(key, value)
        return tensordict

    def candidates(
        self, count: int, generator: torch.Generator | None = None, task_ids: Tensor | None = None
    ) -> Tensor:
        """Candidate contexts ``[count, d]``: every task's mean once, then samples from random tasks.

        Sampling only random tasks, as released, would omit a third of 30 tasks.

        Args:
            count (int): number of candidates. generator (torch.Generator, optional): samples them.
            task_ids (Tensor, optional): tasks to use; by default all tasks of the table.
        """
        mean, log_std = self.lookup(self.task_ids if task_ids is None else task_ids)
        extra = max(count - len(mean), 0)
        row = uniform([extra], generator, mean.device).mul(len(mean)).long()
        noise = normal_like(mean, [extra, mean.shape[-1]], generator)
        drawn = mean[row] + log_std[row].exp() * noise
        return torch.cat([mean[:count], drawn]).detach()
