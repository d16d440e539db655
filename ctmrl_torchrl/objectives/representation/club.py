"""CLUB's upper bound on the information that contexts carry about behavior, which CSRO minimizes.

A posterior network predicts a transition's context from observation and action, as a diagonal Gaussian. The
encoder is trained so that this posterior fits the context of the right transition no better than the contexts
of other transitions of the task.
"""

from __future__ import annotations

from torch import Tensor

from ctmrl_torchrl.modules.masked import masked_mean


def posterior_error(loc: Tensor, variance: Tensor, contexts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the contexts under the posterior, without the constant (CSRO's L_q).

    Args:
        loc, variance (Tensor): the posterior, ``[T, L, d]``; receive gradient.
        contexts (Tensor): per-transition contexts ``[T, L, d]``; pass them detached.
        mask (Tensor, optional): ``[T, L]`` boolean, true where a transition counts.

    Returns:
        ``[T]``, means over transitions and dimensions.

    Examples:
        >>> import torch
        >>> posterior_error(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0))
        tensor([2.])
    """
    return masked_mean((contexts - loc).square() / (2.0 * variance) + 0.5 * variance.log(), mask, -2).mean(-1)


def club_bound(loc: Tensor, variance: Tensor, contexts: Tensor, mask: Tensor | None = None) -> Tensor:
    """CSRO's L_club before its weight: how much better the posterior fits matching than mismatched pairs.

    This is the mean of ``(e_j - m_i)^2 / v_i`` over all pairs of transitions i, j of a task, minus the mean of
    ``(e_i - m_i)^2 / v_i`` over i. Expanded, it equals ``2 Cov(m / v, e) - Cov(1 / v, e^2)`` over transitions:
    the same value and gradient with memory and time linear in L instead of quadratic.

    Args:
        loc, variance (Tensor): the posterior, ``[T, L, d]``; pass them detached.
        contexts (Tensor): per-transition contexts ``[T, L, d]``; receive gradient.
        mask (Tensor, optional): ``[T, L]`` boolean, true where a transition counts.

    Returns:
        ``[T]``, means over dimensions.

    Source: CSRO (NeurIPS 2023), the CLUB term, as released.

    Examples:
        >>> import torch
        >>> contexts = torch.tensor([[[0.0], [2.0]]])  # told apart by the guess: (0 + 4 + 4 + 0) / 4 - 0
        >>> club_bound(contexts.clone(), torch.ones(1, 2, 1), contexts)
        tensor([2.])
        >>> club_bound(torch.ones(1, 2, 1), torch.ones(1, 2, 1), contexts)
        tensor([0.])
    """
    # A common shift of contexts and posterior does not change the bound; small numbers keep precision.
    # The center must not be detached here, or the short form below would have a wrong gradient.
    centre = masked_mean(contexts, mask, -2).unsqueeze(-2)
    contexts, loc, weight = contexts - centre, loc - centre, variance.reciprocal()
    weight_difference = weight - masked_mean(weight, mask, -2).unsqueeze(-2)
    covariance = masked_mean(weight * loc * contexts, mask, -2)
    spread = masked_mean(weight_difference * contexts.square(), mask, -2)
    return (2.0 * covariance - spread).mean(-1)
