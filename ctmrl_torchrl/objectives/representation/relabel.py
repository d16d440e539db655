"""Contexts in which other tasks' behaviours take part, with what the task at hand would have answered them.

In offline data every good trajectory ends where its own task is solved, so an encoder may take the place for
the evidence. At test time the agent's own episodes end where it *believes* the goal to be, and would confirm
any belief. Trajectories of other tasks, relabelled by the predictors, teach it to read the rewards instead.
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
    """Replace some transitions of some contexts by relabelled ones of another task in the batch.

    Args:
        context: entries ``[T, L, ...]`` in TorchRL's layout, with or without a ``mask``.
        task_context: ``[T, d]``, what is known of each task from other data; detached here.
        relabel: ``(transitions [T, L], task contexts [T, d]) -> transitions``, answered as in those tasks.
        fraction: probability of a task to be mixed; of its transitions a uniformly drawn share is replaced.

    Returns:
        the mixed contexts ``[T, L]``; the input is left alone.
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
