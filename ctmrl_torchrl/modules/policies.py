"""Context-conditioned actor and critics for TorchRL's losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator

from ctmrl_torchrl.modules.standardise import StandardisedMLP, Statistics
from ctmrl_torchrl.typed import sequential


class SquashedNormal(TanhNormal):
    """``TanhNormal`` that can also be built while a CUDA graph is captured.

    TorchRL's class copies its limits to the GPU, which a capture forbids; here they are filled in there.

    Args:
        loc, scale (Tensor): ``[*, a]``, before squashing.

    Keyword Args:
        low, high (float): the limits of an action. Default to -1 and 1.
        options: all others of :class:`torchrl.modules.TanhNormal`.

    Examples:
        >>> distribution = SquashedNormal(torch.zeros(4, 2), torch.ones(4, 2))
        >>> distribution.deterministic_sample.shape
        torch.Size([4, 2])
    """

    def __init__(
        self, loc: Tensor, scale: Tensor, *, low: float = -1.0, high: float = 1.0, **options: Any
    ) -> None:
        limits: Any = {"low": low, "high": high}
        if not torch.compiler.is_compiling() and loc.is_cuda and torch.cuda.is_current_stream_capturing():
            limits = {
                name: torch.full((), limit, dtype=loc.dtype, device=loc.device)
                for name, limit in limits.items()
            }
        super().__init__(loc, scale, **limits, **options)


def make_actor(
    *,
    observation_dim: int,
    context_dim: int,
    action_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = ("observation", "task_context"),
    out_key: NestedKey = "action",
) -> ProbabilisticActor:
    """pi(a | s, c): a Gaussian squashed to [-1, 1] with tanh. The deterministic action is tanh of the mean.

    The observation must be the first of ``in_keys``; for its statistics see :class:`StandardisedMLP`.

    Keys: reads ``in_keys``, each ``[*, features]``; writes ``out_key`` ``[*, action_dim]`` (and ``loc``,
    ``scale``).

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> actor = make_actor(observation_dim=3, context_dim=4, action_dim=2)
        >>> td = TensorDict({"observation": torch.zeros(5, 3), "task_context": torch.zeros(5, 4)}, [5])
        >>> actor(td)["action"].shape
        torch.Size([5, 2])
    """
    network = sequential(
        TensorDictModule(
            StandardisedMLP(observation_dim + context_dim, 2 * action_dim, hidden, observation_statistics),
            list(in_keys),
            ["params"],
        ),
        TensorDictModule(
            NormalParamExtractor(
                scale_mapping="biased_softplus_0.5",
                scale_lb=1e-3,  # pyright: ignore[reportArgumentType] (annotated as Number, which float is not)
            ),
            ["params"],
            ["loc", "scale"],
        ),
        selected_out_keys=["loc", "scale"],
    )
    return ProbabilisticActor(
        network,
        in_keys=["loc", "scale"],
        out_keys=[out_key],
        distribution_class=SquashedNormal,
        distribution_kwargs={"low": -1.0, "high": 1.0, "tanh_loc": False},
        return_log_prob=False,
    )


def make_qvalue(
    *,
    observation_dim: int,
    context_dim: int,
    action_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = ("observation", "action", "task_context"),
    out_key: NestedKey = "state_action_value",
) -> ValueOperator:
    """Q(s, a, c), ``[*, 1]``.

    Keys: reads ``in_keys``, each ``[*, features]``; writes ``out_key`` ``[*, 1]``.

    Examples:
        >>> import torch
        >>> qvalue = make_qvalue(observation_dim=3, context_dim=4, action_dim=2)
        >>> inputs = dict(zip(qvalue.in_keys, (torch.zeros(5, size) for size in (3, 2, 4))))
        >>> qvalue(**inputs).shape
        torch.Size([5, 1])
    """
    return ValueOperator(
        StandardisedMLP(observation_dim + action_dim + context_dim, 1, hidden, observation_statistics),
        in_keys=list(in_keys),
        out_keys=[out_key],
    )


def make_value(
    *,
    observation_dim: int,
    context_dim: int,
    hidden: Sequence[int] = (256, 256, 256),
    observation_statistics: Statistics | None = None,
    in_keys: Sequence[NestedKey] = ("observation", "task_context"),
    out_key: NestedKey = "state_value",
) -> ValueOperator:
    """V(s, c), ``[*, 1]``.

    Keys: reads ``in_keys``, each ``[*, features]``; writes ``out_key`` ``[*, 1]``.

    Examples:
        >>> import torch
        >>> value = make_value(observation_dim=3, context_dim=4)
        >>> value(observation=torch.zeros(5, 3), task_context=torch.zeros(5, 4)).shape
        torch.Size([5, 1])
    """
    return ValueOperator(
        StandardisedMLP(observation_dim + context_dim, 1, hidden, observation_statistics),
        in_keys=list(in_keys),
        out_keys=[out_key],
    )
