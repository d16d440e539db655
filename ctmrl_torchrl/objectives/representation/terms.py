"""Terms of the CQ-VAE objective, one function per equation of CTMRL.

Each returns one value per task, ``[T]``, whose mean is the loss, so that a loss module may apply any reduction.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.modules.codebook import match_codes
from ctmrl_torchrl.modules.masked import masked_mean


def code_classification(
    task_context: Tensor, codes: Tensor, code_index: Tensor, temperature: float
) -> Tensor:
    """Eq. (3), L_C: cross-entropy of the cosine similarities to all codes against the matched code.

    Args:
        task_context (Tensor): ``[T, d]``; receives gradient.
        codes (Tensor): ``[N, d]``; receives gradient.
        code_index (Tensor): ``[T]`` int64, the matched codes.
        temperature (float): tau.

    Returns:
        ``[T]``.

    Examples:
        >>> codes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> code_classification(torch.tensor([[2.0, 0.0]]), codes, torch.tensor([0]), temperature=0.1) < 1e-3
        tensor([True])
    """
    similarity, _ = match_codes(task_context, codes)
    return functional.cross_entropy(similarity / temperature, code_index, reduction="none")


def prediction_error(prediction: Tensor, target: Tensor, scale: Tensor, mask: Tensor | None = None) -> Tensor:
    """One half of Eq. (4)-(6) and of Eq. (7)-(9): squared error in units of the target's scale.

    The equations differ only in the context of the predictor (task-specific or cross-task) and in the target
    (reward or next observation). Mean over transitions and dimensions.

    Args:
        prediction (Tensor): ``[T, L, k]``.
        target (Tensor): ``[T, L, k]``.
        scale (Tensor): standard deviation of the target, ``[k]``.
        mask (Tensor, optional): ``[T, L]`` boolean, ``True`` where a transition counts.

    Raises:
        ValueError: if scale and target have different numbers of features.

    Returns:
        ``[T]``.

    Examples:
        >>> prediction_error(torch.zeros(1, 2, 1), torch.tensor([[[2.0], [4.0]]]), scale=torch.tensor([2.0]))
        tensor([2.5000])
    """
    if scale.shape[-1] not in (1, target.shape[-1]):
        raise ValueError(
            f"prediction_error: the scale has {scale.shape[-1]} features, but the target has "
            f"{target.shape[-1]}; give one standard deviation per feature of the target."
        )
    error = ((prediction - target) / scale).square().mean(-1)
    return masked_mean(error, mask)


def prediction_norm(prediction: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """One half of Eq. (4)-(6) and of Eq. (7)-(9) as written: Euclidean norms, summed over the transitions.

    Args:
        prediction (Tensor): ``[T, L, k]``, in raw units.
        target (Tensor): ``[T, L, k]``.
        mask (Tensor, optional): ``[T, L]`` boolean, ``True`` where a transition counts.

    Returns:
        ``[T]``.

    Examples:
        >>> prediction_norm(torch.zeros(1, 2, 2), torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
        tensor([6.])
    """
    difference = prediction - target
    if mask is not None:  # the gradient of a norm at zero is undefined, so padding is replaced before it
        difference = difference.masked_fill(~mask.unsqueeze(-1), 1.0)
    norm = torch.linalg.vector_norm(difference, dim=-1)
    return norm.sum(-1) if mask is None else norm.masked_fill(~mask, 0.0).sum(-1)


def hard_contrastive(
    anchor: Tensor,
    positive: Tensor,
    code_index: Tensor,
    *,
    temperature: float,
    extra_negatives: int,
    task_id: Tensor | None = None,
    generator: torch.Generator | None = None,
    num_codes: int | None = None,
) -> Tensor:
    """Eq. (10), L_contra: InfoNCE among the tasks of a code, averaged per code, then over non-empty codes.

    The negatives of a task are the positives of the other tasks of its code; a task alone on its code is
    contrasted with ``extra_negatives`` randomly sampled other tasks. Uses one masked ``[T, T]`` logit matrix. The
    weight of a row is ``T / (non-empty codes x tasks on its code)``, so that the mean over rows is Eq. (10).

    Args:
        anchor (Tensor): ``[T, d]``, contexts of the first draw.
        positive (Tensor): ``[T, d]``, contexts of the second draw of the same tasks.
        code_index (Tensor): ``[T]`` int64.
        temperature (float): tau.
        extra_negatives (int): M; at most T - 1 are available.
        task_id (Tensor, optional): ``[T]``; rows of one task are never each other's negatives. If None,
            all rows are different tasks.
        generator (torch.Generator, optional): samples the extra tasks.
        num_codes (int, optional): N, to average over all codes as in the published equation; by default over
            the non-empty codes.

    Returns:
        ``[T]``.

    Examples:
        >>> contexts = torch.eye(3)
        >>> code = torch.tensor([0, 0, 0])
        >>> hard_contrastive(contexts, contexts, code, temperature=0.1, extra_negatives=1).max() < 1e-3
        tensor(True)
    """
    similarity = functional.normalize(anchor, dim=-1) @ functional.normalize(positive, dim=-1).mT
    information, group_size = contrast_within_codes(
        similarity / temperature,
        code_index,
        extra_negatives=extra_negatives,
        task_id=task_id,
        generator=generator,
    )
    codes = group_size.reciprocal().sum() if num_codes is None else num_codes
    return information * anchor.shape[0] / (codes * group_size)


def contrast_within_codes(
    logits: Tensor,
    code_index: Tensor,
    *,
    extra_negatives: int,
    task_id: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """InfoNCE of every task among the tasks of its code.

    Args:
        logits (Tensor): ``[T, T]``, of every task's first draw (rows) to every second one.
        code_index, extra_negatives, task_id, generator: as for :func:`hard_contrastive`.

    Returns:
        the information lost on each task ``[T]``, and the number of tasks on its code ``[T]``.

    Examples:
        >>> information, size = contrast_within_codes(
        ...     torch.zeros(3, 3), torch.tensor([0, 0, 1]), extra_negatives=0
        ... )
        >>> information.exp(), size
        (tensor([2., 2., 1.]), tensor([2, 2, 1]))
    """
    tasks = logits.shape[0]
    itself = torch.eye(tasks, dtype=torch.bool, device=logits.device)
    repeated = itself if task_id is None else task_id.unsqueeze(0) == task_id.unsqueeze(1)
    same_code = code_index.unsqueeze(0) == code_index.unsqueeze(1)
    alone = ~(same_code & ~repeated).any(-1, keepdim=True)
    scores = torch.rand(tasks, tasks, generator=generator, device=logits.device)
    scores = scores.masked_fill(repeated, -1.0)
    extra = scores.topk(min(extra_negatives, tasks - 1), dim=-1).indices
    drawn = (extra.unsqueeze(-1) == torch.arange(tasks, device=logits.device)).any(-2)
    allowed = itself | ((same_code | (drawn & alone)) & ~repeated)
    logits = logits.masked_fill(~allowed, -torch.inf)
    return logits.logsumexp(-1) - logits.diagonal(), same_code.sum(-1)
