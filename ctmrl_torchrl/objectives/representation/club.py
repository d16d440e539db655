"""How much a transition's context tells of the behaviour alone: CLUB's upper bound, as CSRO lowers it.

A network guesses from observation and action what the encoder makes of a transition (the guess is a Gaussian
with a mean and a variance in every dimension); the encoder is taught to be no easier to guess for the right
transition than for others of the task.
"""

from __future__ import annotations

from torch import Tensor


def posterior_error(loc: Tensor, variance: Tensor, contexts: Tensor, mask: Tensor | None = None) -> Tensor:
    """Negative log-likelihood of the contexts under the guess, without its constant (CSRO's L_q).

    Args:
        loc, variance (Tensor): the guess, ``[T, L, d]``; they receive gradient.
        contexts (Tensor): ``[T, L, d]``, of single transitions; pass them detached.
        mask (Tensor, optional): ``[T, L]`` boolean, true where a transition counts.

    Returns:
        ``[T]``, means over transitions and dimensions.

    Examples:
        >>> import torch
        >>> posterior_error(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.full((1, 1, 1), 2.0))
        tensor([2.])
    """
    return _mean((contexts - loc).square() / (2.0 * variance) + 0.5 * variance.log(), mask).mean(-1)


def club_bound(loc: Tensor, variance: Tensor, contexts: Tensor, mask: Tensor | None = None) -> Tensor:
    """CSRO's L_club before its weight: how much better the guess fits the right transition than any other.

    The mean over all pairs of transitions i, j of a task of ``(e_j - m_i)^2 / v_i``, less the mean over i of
    ``(e_i - m_i)^2 / v_i``. Multiplied out, the pairs become ``2 Cov(m / v, e) - Cov(1 / v, e^2)`` over the
    transitions: the same value and gradient with memory and time in proportion to L instead of L squared.

    Args:
        loc, variance (Tensor): the guess, ``[T, L, d]``; pass them detached.
        contexts (Tensor): ``[T, L, d]``, of single transitions; they receive gradient.
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
    # The bound does not change when contexts and guess move together; small numbers keep single precision.
    # The centre must move with the gradient here, or the shorter form below would have a wrong one.
    centre = _mean(contexts, mask).unsqueeze(-2)
    contexts, loc, weight = contexts - centre, loc - centre, variance.reciprocal()
    weight_difference = weight - _mean(weight, mask).unsqueeze(-2)
    bound = 2.0 * _mean(weight * loc * contexts, mask) - _mean(weight_difference * contexts.square(), mask)
    return bound.mean(-1)


def _mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of ``[T, L, d]`` over the transitions that count."""
    if mask is None:
        return values.mean(-2)
    weights = mask.unsqueeze(-1).to(values.dtype)
    return (values * weights).sum(-2) / weights.sum(-2).clamp_min(1.0)
