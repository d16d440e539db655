"""The posterior of a transition's context given only observation and action: the adversary of CLUB's bound."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.nn import functional

from ctmrl_torchrl.modules.standardise import StandardisedMLP, Statistics


class BoundedGaussian(nn.Module):
    """Mean in (-1, 1) and variance in (0.31, 1.31) from a network's output ``[*, 2 d]``.

    Both halves pass through tanh and the second also through softplus, which bounds the likelihood (CSRO, as
    released).

    Examples:
        >>> loc, variance = BoundedGaussian(nn.Identity())(Tensor([[0.0, 0.0]]))
        >>> loc.item(), round(variance.item(), 4)
        (0.0, 0.6931)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance, ``[*, d]`` each."""
        loc, raw = self.network(*inputs).tanh().chunk(2, dim=-1)
        return loc, functional.softplus(raw)


def make_behaviour_posterior(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (200, 200, 200),
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = ("observation", "action"),
    out_keys: Sequence[NestedKey] = ("posterior_loc", "posterior_variance"),
) -> TensorDictModule:
    """q(e | s, a): a Gaussian over a transition's context that depends only on the behavior.

    Args:
        observation_dim, action_dim, context_dim (int): sizes.
        hidden (sequence of int): hidden layers of the ReLU network.
        observation_statistics (Statistics, optional): see :class:`~ctmrl_torchrl.modules.StandardisedMLP`.
        in_keys: two keys, each ``[*, features]``, the observation first.
        out_keys: mean and variance, ``[*, context_dim]`` each.

    Source: CSRO (NeurIPS 2023).

    Examples:
        >>> import torch
        >>> guess = make_behaviour_posterior(observation_dim=3, action_dim=2, context_dim=4)
        >>> loc, variance = guess(observation=torch.zeros(5, 3), action=torch.zeros(5, 2))
        >>> loc.shape, bool((variance > 0.31).all())
        (torch.Size([5, 4]), True)
    """
    network = StandardisedMLP(observation_dim + action_dim, 2 * context_dim, hidden, observation_statistics)
    return TensorDictModule(BoundedGaussian(network), list(in_keys), list(out_keys))
