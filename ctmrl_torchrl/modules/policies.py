"""Context-conditioned actor and critics, in the form TorchRL's losses expect."""

from __future__ import annotations

from collections.abc import Sequence

from tensordict.nn import TensorDictModule, TensorDictSequential
from tensordict.utils import NestedKey
from torch import nn
from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator


def _network(in_features: int, out_features: int, hidden: Sequence[int]) -> MLP:
    return MLP(
        in_features=in_features, out_features=out_features, num_cells=list(hidden), activation_class=nn.ReLU
    )


def make_actor(
    *,
    observation_dim: int,
    context_dim: int,
    action_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    in_keys: Sequence[NestedKey] = ("observation", "task_context"),
    out_key: NestedKey = "action",
) -> ProbabilisticActor:
    """pi(a | s, c): a Gaussian squashed by tanh to [-1, 1]; outside of sampling, tanh of the mean."""
    network = TensorDictSequential(
        TensorDictModule(
            _network(observation_dim + context_dim, 2 * action_dim, hidden), list(in_keys), ["params"]
        ),
        TensorDictModule(
            NormalParamExtractor(scale_mapping="biased_softplus_0.5", scale_lb=1e-3),
            ["params"],
            ["loc", "scale"],
        ),
        selected_out_keys=["loc", "scale"],
    )
    return ProbabilisticActor(
        network,
        in_keys=["loc", "scale"],
        out_keys=[out_key],
        distribution_class=TanhNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False},
        return_log_prob=False,
    )


def make_qvalue(
    *,
    observation_dim: int,
    context_dim: int,
    action_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    in_keys: Sequence[NestedKey] = ("observation", "action", "task_context"),
    out_key: NestedKey = "state_action_value",
) -> ValueOperator:
    """Q(s, a, c), ``[*, 1]``."""
    return ValueOperator(
        _network(observation_dim + action_dim + context_dim, 1, hidden),
        in_keys=list(in_keys),
        out_keys=[out_key],
    )


def make_value(
    *,
    observation_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    in_keys: Sequence[NestedKey] = ("observation", "task_context"),
    out_key: NestedKey = "state_value",
) -> ValueOperator:
    """V(s, c), ``[*, 1]``."""
    return ValueOperator(
        _network(observation_dim + context_dim, 1, hidden), in_keys=list(in_keys), out_keys=[out_key]
    )
