"""Context-conditioned reward and state predictors: the decoder of the CQ-VAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict.nn import TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey

from ctmrl_torchrl.modules.standardise import StandardisedMLP, Statistics, Unstandardise
from ctmrl_torchrl.typed import sequential

DEFAULT_IN_KEYS: tuple[NestedKey, ...] = ("observation", "action", "task_context")


def _predictor(
    in_features: int,
    out_features: int,
    hidden: Sequence[int],
    target_statistics: Statistics | None,
    observation_statistics: Statistics | None,
    in_keys: Sequence[NestedKey],
    out_key: NestedKey,
) -> TensorDictSequential:
    loc, scale = target_statistics or (torch.zeros(out_features), torch.ones(out_features))
    network = StandardisedMLP(in_features, out_features, hidden, observation_statistics)
    return sequential(
        TensorDictModule(network, list(in_keys), [out_key]),
        TensorDictModule(Unstandardise(loc, scale), [out_key], [out_key]),
    )


def make_reward_predictor(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    target_statistics: Statistics | None = None,
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = DEFAULT_IN_KEYS,
    out_key: NestedKey = "reward_prediction",
) -> TensorDictSequential:
    """r^(s, a, c): predicts the reward, in raw units, from observation, action and a context.

    Args:
        observation_dim, action_dim, context_dim (int): sizes of the inputs.
        hidden (sequence of int): hidden layers of the ReLU network.
        target_statistics (Statistics, optional): mean and standard deviation of the reward, ``[1]`` each;
            the network then predicts in unit variance.
        observation_statistics (Statistics, optional): as for :class:`~ctmrl_torchrl.modules.StandardisedMLP`.
        in_keys: three keys, each ``[*, features]``.
        out_key: ``[*, 1]``.

    Examples:
        >>> predictor = make_reward_predictor(observation_dim=3, action_dim=2, context_dim=4)
        >>> inputs = dict(zip(predictor.in_keys, (torch.zeros(5, size) for size in (3, 2, 4))))
        >>> predictor(**inputs).shape
        torch.Size([5, 1])
    """
    return _predictor(
        observation_dim + action_dim + context_dim,
        1,
        hidden,
        target_statistics,
        observation_statistics,
        in_keys,
        out_key,
    )


def make_next_observation_predictor(
    *,
    observation_dim: int,
    action_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    change_statistics: Statistics | None = None,
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = DEFAULT_IN_KEYS,
    out_key: NestedKey = "next_observation_prediction",
) -> TensorDictSequential:
    """s^(s, a, c): predicts the next observation, in raw units, as the observation plus a predicted change.

    Args:
        observation_dim, action_dim, context_dim, hidden, observation_statistics: as for the reward predictor.
        out_key: ``[*, observation_dim]``.
        change_statistics (Statistics, optional): mean and standard deviation of the *change*
            (next observation minus observation), ``[observation_dim]`` each.
        in_keys: as for the reward predictor, the observation first.

    Examples:
        >>> predictor = make_next_observation_predictor(observation_dim=3, action_dim=2, context_dim=4)
        >>> inputs = dict(zip(predictor.in_keys, (torch.zeros(5, size) for size in (3, 2, 4))))
        >>> predictor(**inputs).shape
        torch.Size([5, 3])
    """
    change = _predictor(
        observation_dim + action_dim + context_dim,
        observation_dim,
        hidden,
        change_statistics,
        observation_statistics,
        in_keys,
        out_key,
    )
    return sequential(*change, TensorDictModule(torch.add, [in_keys[0], out_key], [out_key]))
