"""Noise of task contexts relative to the distance between tasks."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["context_noise_ratio"]


def context_noise_ratio(contexts: Tensor) -> Tensor:
    """Ratio of the variance within a task to the variance between tasks.

    Encode several independent contexts per task under one protocol. The ratio measures how much of the context
    is noise. A large value explains a poor return at meta-test: near 1, contexts of one task differ as much as
    contexts of different tasks. A small value guarantees nothing, because contexts may be stable but wrong.

    With ``R`` repeats, ``within`` is the unbiased variance over repeats (summed over dimensions, mean over
    tasks) and ``between`` the unbiased variance of the task means. Task means of ``R`` noisy repeats vary by
    ``within / R`` even if the tasks coincide, so this value is subtracted from ``between`` as long as the result
    is positive.

    Args:
        contexts: floating tensor of shape ``[n_tasks, repeats, d]`` with at least two tasks and two repeats.

    Returns:
        A scalar tensor of the dtype of ``contexts``; ``inf`` if all task means coincide.

    Raises:
        ValueError: for a wrong shape, an integer dtype, or non-finite values.

    Example:
        >>> contexts = torch.tensor([[[0.0], [2.0]], [[10.0], [12.0]]])
        >>> context_noise_ratio(contexts)  # within 2, between 50 - 2 / 2
        tensor(0.0408)
    """
    if contexts.ndim != 3 or contexts.shape[0] < 2 or contexts.shape[1] < 2 or contexts.shape[2] < 1:
        raise ValueError(
            "contexts must have the shape [n_tasks, repeats, d] with at least 2 tasks and 2 repeats, "
            f"got {list(contexts.shape)}."
        )
    if not contexts.is_floating_point():
        raise ValueError(f"contexts must be of a floating dtype, got {contexts.dtype}.")
    if not torch.isfinite(contexts).all():
        tasks = (~torch.isfinite(contexts)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"contexts contain values that are not finite, in the rows of task(s) {tasks}.")
    precise = contexts.to(torch.float64)
    within = precise.var(dim=1, correction=1).sum(-1).mean()
    between = precise.mean(dim=1).var(dim=0, correction=1).sum()
    corrected = between - within / contexts.shape[1]
    between = torch.where(corrected > 0, corrected, between)
    ratio = torch.where(between > 0, within / between, torch.full_like(between, float("inf")))
    return ratio.to(contexts.dtype)
