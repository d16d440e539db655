"""Mixes relabeled transitions of other tasks into contexts.

In offline data, good trajectories end where their task is solved, so an encoder may infer the task from the
visited states alone. At test time the agent goes where it *believes* the goal to be, and such an encoder would
confirm any belief. Trajectories of other tasks, relabeled by the predictors, teach it to use the rewards.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tensordict import TensorDictBase
from torch import Tensor

Relabel = Callable[[TensorDictBase, Tensor], TensorDictBase]


def mix_other_tasks(
    context: TensorDictBase, task_context: Tensor, relabel: Relabel, fraction: float
) -> TensorDictBase:
    """Replace some transitions of some contexts with relabeled transitions of another task in the batch.

    Args:
        context: entries ``[T, L, ...]`` in TorchRL's layout, with or without a ``mask``.
        task_context: ``[T, d]``, contexts of the tasks from other data; detached here.
        relabel: ``(transitions [T, L], task contexts [T, d]) -> transitions`` with the outcomes of those tasks.
        fraction: probability of mixing a task. The replaced fraction of its transitions is sampled uniformly.

    Returns:
        the mixed contexts ``[T, L]``; the input is not modified.
    """
    tasks, device = task_context.shape[0], task_context.device
    if context.batch_dims < 2:
        context = context.copy().auto_batch_size_(2)
    shift = torch.randint(1, max(tasks, 2), (), device=device)
    with torch.no_grad():
        other = relabel(context[(torch.arange(tasks, device=device) + shift) % tasks], task_context.detach())
    draws = torch.rand(2, *context.shape[:2], device=device)
    share = draws[0, :, :1] / fraction
    replaced = draws[1] < torch.where(share < 1, share, torch.zeros_like(share))
    return other.where(replaced, context)
