"""Context-based reward and state predictors: the decoder of the CQ-VAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import MLP

from ctmrl_torchrl.modules.standardise import Unstandardise

DEFAULT_IN_KEYS: tuple[NestedKey, ...] = ("observation", "action", "task_context")


def _predictor(
    in_features: int,
    out_features: int,
    hidden: Sequence[int],
    target_statistics: tuple[Tensor, Tensor] | None,
    in_keys: Sequence[NestedKey],
    out_key: NestedKey,
) -> TensorDictSequential:
    loc, scale = target_statistics or (torch.zeros(out_features), torch.ones(out_features))
    network = MLP(
        in_features=in_features, out_features=out_features, num_cells=list(hidden), activation_class=nn.ReLU
    )
    return TensorDictSequential(
        TensorDictModule(network, list(in_keys), [out_key]),
        TensorDictModule(Unstandardise(loc, scale), [out_key], [out_key]),
    )


def make_reward_predictor(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    target_statistics: tuple[Tensor, Tensor] | None = None,
    in_keys: Sequence[NestedKey] = DEFAULT_IN_KEYS,
    out_key: NestedKey = "reward_prediction",
) -> TensorDictSequential:
    """r^(s, a, c): predicts the reward, in raw units, from observation, action and a context.

    Args:
        observation_dim, action_dim, context_dim (int): sizes of the inputs.
        hidden (sequence of int): widths of the ReLU network.
        target_statistics (pair of Tensor, optional): mean and standard deviation of the reward, ``[1]`` each:
            the network then works in unit variance.
        in_keys: three keys, each ``[*, features]``.
        out_key: ``[*, 1]``.
    """
    return _predictor(
        observation_dim + action_dim + context_dim, 1, hidden, target_statistics, in_keys, out_key
    )


def make_next_observation_predictor(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    change_statistics: tuple[Tensor, Tensor] | None = None,
    in_keys: Sequence[NestedKey] = DEFAULT_IN_KEYS,
    out_key: NestedKey = "next_observation_prediction",
) -> TensorDictSequential:
    """s^(s, a, c): predicts the next observation, in raw units, as the observation plus a predicted change.

    Args:
        observation_dim, action_dim, context_dim, hidden, out_key: as for the reward predictor; ``out_key`` is
            ``[*, observation_dim]``.
        change_statistics (pair of Tensor, optional): mean and standard deviation of the *change*
            (next observation minus observation), ``[observation_dim]`` each.
        in_keys: as for the reward predictor, the observation first.
    """
    change = _predictor(
        observation_dim + action_dim + context_dim,
        observation_dim,
        hidden,
        change_statistics,
        in_keys,
        out_key,
    )
    return TensorDictSequential(*change, TensorDictModule(torch.add, [in_keys[0], out_key], [out_key]))
