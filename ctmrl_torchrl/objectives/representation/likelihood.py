"""Terms that make contexts explain transitions: UNICORN's likelihood, GENTLE's error, a classifier."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.modules.masked import masked_mean


def gaussian_error(loc: Tensor, log_variance: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """UNICORN's NLL of one target without the factor 1/2 and the constant: ``(loc - y)^2 / v + log v``.

    Add ``0.01`` times :meth:`~ctmrl_torchrl.modules.decoders.GaussianHead.bound_width`. The gradient
    grows with ``1 / v`` as the fit improves and may dominate the metric loss, so monitor both.

    Args:
        loc, log_variance (Tensor): the prediction, ``[T, L, k]``.
        target (Tensor): reward ``[T, L, 1]`` or change of the observation ``[T, L, k]``.
        mask (Tensor, optional): ``[T, L]`` boolean, true for valid transitions.

    Returns:
        ``[T]``, means over transitions and dimensions.

    Source: UNICORN (NeurIPS 2024), the reconstruction term, as released.

    Examples:
        >>> gaussian_error(torch.zeros(1, 2, 1), torch.zeros(1, 2, 1), torch.tensor([[[1.0], [3.0]]]))
        tensor([5.])
    """
    error = (loc - target).square() * (-log_variance).exp() + log_variance
    return masked_mean(error.mean(-1), mask)


def autoencoder_error(
    reward: tuple[Tensor, Tensor],
    next_observation: tuple[Tensor, Tensor] | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """GENTLE's L_tae before its weight of 10: mean squared error over all dimensions of (r, s') together.

    If next observations are predicted too, the reward therefore has weight ``1 / (1 + n_s)``.

    Args:
        reward (pair of Tensor): prediction and target, ``[T, L, 1]``.
        next_observation (pair of Tensor, optional): prediction and target, ``[T, L, n_s]``; for varying
            dynamics.
        mask (Tensor, optional): ``[T, L]`` boolean, true where a transition counts.

    Returns:
        ``[T]``.

    Source: GENTLE (AAAI 2024), the task autoencoder, as released.

    Examples:
        >>> reward = torch.zeros(1, 1, 1), torch.full((1, 1, 1), 2.0)
        >>> autoencoder_error(reward), autoencoder_error(reward, (torch.zeros(1, 1, 3), torch.zeros(1, 1, 3)))
        (tensor([4.]), tensor([1.]))
    """
    pairs = [reward] if next_observation is None else [reward, next_observation]
    prediction, target = (torch.cat(parts, -1) for parts in zip(*pairs, strict=True))
    return masked_mean((prediction - target).square().mean(-1), mask)


def task_classification(logits: Tensor, task_id: Tensor, task_ids: Tensor) -> Tensor:
    """UNICORN-SUP: cross-entropy of classifying training tasks from the context.

    Args:
        logits (Tensor): ``[T, tasks]``.
        task_id, task_ids (Tensor): the tasks of the rows ``[T]`` and of the columns ``[tasks]``.

    Returns:
        ``[T]``; NaN for a task that has no column, because checking it would synchronize the device.

    Source: UNICORN (NeurIPS 2024), the supervised variant, which is not in the released code.

    Examples:
        >>> error = task_classification(torch.zeros(2, 4), torch.tensor([9, 3]), torch.tensor([3, 5, 7, 9]))
        >>> error.exp()
        tensor([4., 4.])
    """
    same = task_id.unsqueeze(-1) == task_ids
    error = functional.cross_entropy(logits, same.int().argmax(-1), reduction="none")
    return torch.where(same.any(-1), error, torch.nan)
