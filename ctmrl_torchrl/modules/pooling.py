"""Layers that pool per-transition codes into one context: attention, unit length and noise."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class AttentionPool(nn.Module):
    """A weighted mean of transition codes, with a linear scoring layer and a softmax.

    Args:
        features (int): size d of a code.

    Source: CORRO (ICML 2022), the aggregator, as released. The critic's gradient trains it.

    Examples:
        >>> pool = AttentionPool(4)
        >>> codes = torch.randn(3, 7, 4)
        >>> pool(codes).shape, torch.allclose(pool.weights(codes).sum(-1), torch.ones(3))
        (torch.Size([3, 4]), True)
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.score = nn.Linear(features, 1)

    def weights(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Weights ``[*, L]`` of codes ``[*, L, d]``; they sum to 1 over valid codes.

        A row without valid codes has weights of 0.
        """
        scores = self.score(codes).squeeze(-1)
        if mask is None:
            return scores.softmax(-1)
        # A finite minimum keeps rows without valid codes, and their gradients, finite.
        floor = torch.finfo(scores.dtype).min
        return scores.masked_fill(~mask, floor).softmax(-1) * mask

    def forward(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """The context ``[*, d]`` of codes ``[*, L, d]``; ``mask`` ``[*, L]`` marks valid codes."""
        weights = self.weights(codes, mask).unsqueeze(-1)
        if mask is not None:  # padding may hold any values, including non-finite ones
            codes = codes.masked_fill(~mask.unsqueeze(-1), 0.0)
        return (weights * codes).sum(-2)


class UnitSphere(nn.Module):
    """Scales codes ``[*, d]`` to length 1: the output layer of CORRO's transition encoder.

    Examples:
        >>> UnitSphere()(torch.tensor([3.0, 4.0]))
        tensor([0.6000, 0.8000])
    """

    def forward(self, codes: Tensor) -> Tensor:
        """Divide by the length."""
        return functional.normalize(codes, dim=-1)


class NoisySquash(nn.Module):
    """``tanh(m + sqrt(v) * noise)`` with one learned variance per dimension, shared by all transitions.

    This is the last layer of UNICORN's transition encoder, before the mean. Noise is also added at meta-test.
    Without it contexts would have another scale, because the mean of ``tanh(m + noise)`` is not ``tanh(m)``.

    Args:
        features (int): d.
        bounds (pair of float): limits of the variance.

    Attributes:
        log_variance (Tensor): ``[d]``, learned; 0 at first.
        draws (int): number of averaged samples; 1 in training, more reduce context noise at meta-test.

    Source: UNICORN (NeurIPS 2024), as released.

    Examples:
        >>> squash = NoisySquash(4)
        >>> codes = squash(torch.zeros(1000, 4))
        >>> bool((codes.abs() < 1).all()), bool((codes.std(0) > 0.3).all())
        (True, True)
    """

    def __init__(self, features: int, bounds: tuple[float, float] = (0.1, 10.0)) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(features))
        self.bounds = bounds
        self.draws = 1

    def reset_parameters(self) -> None:
        """Set the variances to 1."""
        nn.init.zeros_(self.log_variance)

    def variance(self) -> Tensor:
        """The variance of each dimension, ``[d]``."""
        return self.log_variance.exp().clamp(*self.bounds)

    def forward(self, means: Tensor) -> Tensor:
        """Codes ``[*, d]`` from the network's outputs ``[*, d]``."""
        noise = torch.randn_like(means.expand(self.draws, *means.shape))
        return (means + self.variance().sqrt() * noise).tanh().mean(0)
