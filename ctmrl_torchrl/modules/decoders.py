"""Decoders that predict transitions from a context.

They have a learned variance (UNICORN), predict both outcomes at once (GENTLE), or use an inner product (ANOLE).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torch.nn import functional

from ctmrl_torchrl.modules.generative import SplitMLP
from ctmrl_torchrl.modules.initialization import lineage_init_, truncated_normal_
from ctmrl_torchrl.modules.standardise import StandardisedMLP, Statistics, Unstandardise

DEFAULT_IN_KEYS: tuple[NestedKey, ...] = ("observation", "action", "task_context")


class GaussianHead(nn.Module):
    """Mean and log-variance from a network's output ``[*, 2 d]``, with soft bounds on the latter.

    The bounds are learned, one pair per dimension: see :meth:`bound_width`, whose weight is 0.01.

    Args:
        network (nn.Module): returns ``[*, 2 d]``. features (int): d.
        least, most (float): initial bounds of the log-variance.

    Source: PETS (NeurIPS 2018); UNICORN (NeurIPS 2024), as released.

    Examples:
        >>> head = GaussianHead(nn.Identity(), 1)
        >>> loc, log_variance = head(torch.tensor([[0.0, 100.0], [0.0, -100.0]]))
        >>> [round(value, 2) for value in log_variance.flatten().tolist()]
        [0.5, -10.0]
    """

    def __init__(self, network: nn.Module, features: int, least: float = -10.0, most: float = 0.5) -> None:
        super().__init__()
        self.network = network
        self.initial = least, most
        self.least = nn.Parameter(torch.full((features,), least))
        self.most = nn.Parameter(torch.full((features,), most))

    def reset_parameters(self) -> None:
        """Set the bounds to their initial values."""
        for bound, value in zip((self.least, self.most), self.initial, strict=True):
            nn.init.constant_(bound, value)

    def bound_width(self) -> Tensor:
        """Distance between the bounds, summed over dimensions; a scalar."""
        return (self.most - self.least).sum()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, ``[*, d]`` each."""
        loc, raw = self.network(*inputs).chunk(2, dim=-1)
        below = self.most - functional.softplus(self.most - raw)
        return loc, self.least + functional.softplus(below - self.least)


def make_gaussian_predictor(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    out_features: int,
    hidden: Sequence[int] = (64, 64),
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = DEFAULT_IN_KEYS,
    out_keys: Sequence[NestedKey] = ("prediction_loc", "prediction_log_variance"),
) -> TensorDictModule:
    """A Gaussian over the reward, or over the change of the observation, given (s, a, c).

    Args:
        observation_dim, action_dim, context_dim, out_features (int): sizes; 1 output for the reward.
        hidden (sequence of int): widths; released two of 64, or of 128 on Hopper and Walker.
        observation_statistics (Statistics, optional): as for :class:`~ctmrl_torchrl.modules.StandardisedMLP`.
        in_keys: three keys, each ``[*, features]``, the observation first.
        out_keys: mean and log-variance, ``[*, out_features]`` each.

    The module itself is a :class:`GaussianHead`, under ``.module``.

    Source: UNICORN (NeurIPS 2024), the decoder, as released.

    Examples:
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> predictor = make_gaussian_predictor(**sizes, out_features=3)
        >>> inputs = dict(zip(predictor.in_keys, (torch.zeros(5, size) for size in (3, 2, 4))))
        >>> predictor(**inputs)[1].shape, predictor.module.bound_width().item()
        (torch.Size([5, 3]), 31.5)
    """
    network = StandardisedMLP(
        observation_dim + action_dim + context_dim, 2 * out_features, hidden, observation_statistics
    )
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            truncated_normal_(layer.weight.data, layer.in_features)
            nn.init.zeros_(layer.bias)
    return TensorDictModule(GaussianHead(network, out_features), list(in_keys), list(out_keys))


def make_transition_decoder(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    next_observation: bool = True,
    lineage_init: bool = False,
    observation_statistics: Statistics | None = None,
    target_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = DEFAULT_IN_KEYS,
    out_keys: Sequence[NestedKey] = ("reward_prediction", "next_observation_prediction"),
) -> TensorDictModule:
    """One network for the reward and, optionally, the next observation: GENTLE's decoder.

    Args:
        observation_dim, action_dim, context_dim (int): sizes.
        hidden (sequence of int): widths; released three of 256, or of 64 on the point robot.
        next_observation (bool): whether to predict the next observation, as the observation plus a change.
        lineage_init (bool): whether to use FOCAL's weight initialization; see :func:`lineage_init_`.
        observation_statistics (Statistics, optional): as for :class:`~ctmrl_torchrl.modules.StandardisedMLP`.
        target_statistics (Statistics, optional): statistics of the targets, ``[1]`` or ``[1 + observation_dim]``
            (the reward, then the change); the network then predicts in unit variance.
        in_keys: three keys, each ``[*, features]``, the observation first.
        out_keys: ``[*, 1]`` and ``[*, observation_dim]``; only the first without the next observation.

    Source: GENTLE (AAAI 2024), as released.

    Examples:
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> decoder = make_transition_decoder(**sizes)
        >>> inputs = dict(zip(decoder.in_keys, (torch.zeros(5, size) for size in (3, 2, 4))))
        >>> [output.shape[-1] for output in decoder(**inputs)]
        [1, 3]
    """
    features = observation_dim + action_dim + context_dim
    outputs = 1 + (observation_dim if next_observation else 0)
    network = StandardisedMLP(features, outputs, hidden, observation_statistics)
    if lineage_init:
        lineage_init_(network)
    decoder = _TransitionDecoder(network, next_observation, target_statistics)
    return TensorDictModule(decoder, list(in_keys), list(out_keys)[: 1 + next_observation])


class _TransitionDecoder(nn.Module):
    """Splits a network's output into the reward and, optionally, the change added to the observation."""

    def __init__(self, network: nn.Module, next_observation: bool, statistics: Statistics | None) -> None:
        super().__init__()
        self.network = network
        self.next_observation = next_observation
        self.unstandardise = nn.Identity() if statistics is None else Unstandardise(*statistics)

    def forward(self, observation: Tensor, *others: Tensor) -> tuple[Tensor, Tensor] | Tensor:
        outcome = self.unstandardise(self.network(observation, *others))
        reward = outcome[..., :1]
        return (reward, observation + outcome[..., 1:]) if self.next_observation else reward


class InnerProductReward(nn.Module):
    """``r(s, a; c) = tanh(<f(s, a), c>)``: the inner product of a transition embedding and a context.

    Args:
        embedding (nn.Module): f, maps ``[*, features]`` to ``[*, d]``.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> reward = InnerProductReward(nn.Linear(3, 4))
        >>> reward(torch.zeros(5, 2), torch.zeros(5, 1), torch.zeros(5, 4)).shape
        torch.Size([5, 1])
        >>> reward.of_candidates(torch.zeros(7, 6, 3), torch.zeros(9, 4)).shape  # 7 fragments of 6 steps
        torch.Size([9, 7])
    """

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, *inputs: Tensor) -> Tensor:
        """Reward ``[*, 1]`` of transitions; their features come first, the contexts ``[*, d]`` last."""
        *features, context = inputs
        return (self.embedding(torch.cat(features, -1)) * context).sum(-1, keepdim=True).tanh()

    def of_candidates(self, fragments: Tensor, candidates: Tensor) -> Tensor:
        """Summed rewards ``[N, M]`` of fragments ``[M, steps, features]`` under candidates ``[N, d]``."""
        return torch.einsum("msd,nd->nms", self.embedding(fragments), candidates).tanh().sum(-1)


def make_preference_reward(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    next_observation: bool = False,
    hidden: Sequence[int] = (200, 200, 200),
    in_keys: Sequence[NestedKey] | None = None,
    out_key: NestedKey = "reward_prediction",
) -> TensorDictModule:
    """ANOLE's reward model, an :class:`InnerProductReward` under ``.module``; it never receives a reward.

    Args:
        observation_dim, action_dim, context_dim (int): sizes; the released context size is 5.
        next_observation (bool): whether it reads the next observation, for varying dynamics.
        hidden (sequence of int): widths.
        in_keys: observation, action, (next observation,) context; by default under their usual names.
        out_key: ``[*, 1]``.

    Examples:
        >>> reward = make_preference_reward(observation_dim=3, action_dim=2, context_dim=5)
        >>> reward.in_keys
        ['observation', 'action', 'task_context']
        >>> reward(*(torch.zeros(4, size) for size in (3, 2, 5))).shape
        torch.Size([4, 1])
    """
    features = observation_dim + action_dim + (observation_dim if next_observation else 0)
    between: list[NestedKey] = [("next", "observation")] if next_observation else []
    embedding = SplitMLP(features, [context_dim], hidden)
    keys = ["observation", "action", *between, "task_context"] if in_keys is None else list(in_keys)
    return TensorDictModule(InnerProductReward(embedding), keys, [out_key])
