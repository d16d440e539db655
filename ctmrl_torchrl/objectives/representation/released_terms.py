"""Codebook terms that CTMRL's released code uses instead of the paper's equations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.objectives.representation.terms import contrast_within_codes


def squared_distance(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference over the last dimension, used for the cycle and the commitment.

    Examples:
        >>> squared_distance(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
        tensor([5.])
    """
    return (first - second).square().mean(-1)


def code_contrast(codes: Tensor, bilinear: Tensor) -> Tensor:
    """InfoNCE of the codes: each should be closer to itself than to the others.

    Args:
        codes (Tensor): ``[N, d]``; receives gradient.
        bilinear (Tensor): W, ``[d, d]``; codes compare by ``x W y``.

    Returns:
        a scalar.

    Examples:
        >>> round(code_contrast(torch.zeros(4, 2), torch.eye(2)).exp().item(), 4)
        4.0
    """
    logits = codes @ bilinear @ codes.mT
    return functional.cross_entropy(logits, torch.arange(codes.shape[0], device=codes.device))


def bilinear_contrastive(
    anchor: Tensor,
    positive: Tensor,
    code_index: Tensor,
    bilinear: Tensor,
    *,
    extra_negatives: int,
    task_id: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """InfoNCE among the tasks of a code, compared by ``x W y``: mean over its tasks, *sum* over codes.

    Args:
        bilinear (Tensor): W, ``[d, d]``.
        anchor, positive, code_index, extra_negatives, task_id, generator: as for
            :func:`~ctmrl_torchrl.objectives.representation.hard_contrastive`.

    Returns:
        ``[T]``, whose mean is that sum.

    Examples:
        >>> contexts, code = 9.0 * torch.eye(3), torch.tensor([0, 0, 0])
        >>> bilinear_contrastive(contexts, contexts, code, torch.eye(3), extra_negatives=1).max() < 1e-3
        tensor(True)
    """
    information, group_size = contrast_within_codes(
        anchor @ bilinear @ positive.mT,
        code_index,
        extra_negatives=extra_negatives,
        task_id=task_id,
        generator=generator,
    )
    return information * anchor.shape[0] / group_size
