"""Distance metric learning on task contexts: the loss of FOCAL, which later methods keep."""

from __future__ import annotations

import torch
from torch import Tensor

#: keeps the root's slope finite, and the quotients where there are no pairs
_SMALL = 1e-3


def metric_loss(task_context: Tensor, task_id: Tensor | None = None) -> Tensor:
    """FOCAL's L_dml: contexts of one task attract, those of different tasks repel each other.

    With ``D`` the mean squared difference of two contexts, pairs of one task cost ``sqrt(D + 0.001)`` and
    pairs of different tasks ``1 / (D + 0.1)``, each kind divided by its number of pairs. Where tasks are
    drawn without replacement there is no pair of the first kind, and contexts only repel each other.

    Args:
        task_context (Tensor): ``[T, d]``; receives gradient.
        task_id (Tensor, optional): ``[T]``; without it all rows count as different tasks.

    Returns:
        ``[T]``: what each context has part in, so that the mean is the loss.

    Source: FOCAL (Li, Yang, Luo; ICLR 2021), equation of the distance metric loss, as released.

    Examples:
        >>> contexts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # D = 1, one pair
        >>> round(metric_loss(contexts).mean().item() * (1 + 1e-3), 4) == round(1 / 1.1, 4)
        True
    """
    tasks = task_context.shape[0]
    distance = (task_context.unsqueeze(0) - task_context.unsqueeze(1)).square().mean(-1)
    other = ~torch.eye(tasks, dtype=torch.bool, device=task_context.device)
    same = torch.zeros_like(other) if task_id is None else task_id.unsqueeze(0) == task_id.unsqueeze(1)
    total = distance.new_zeros(tasks)
    for pairs, cost in (
        (same & other, (distance + _SMALL).sqrt()),
        (~same & other, (distance + 100 * _SMALL).reciprocal()),
    ):
        # Every pair is met twice, once from either side.
        total = total + (cost * pairs).sum(-1) / (pairs.sum() + 2 * _SMALL)
    return total * tasks
