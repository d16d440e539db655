"""Operations on the actor's action distribution for BRAC-SAC."""

from __future__ import annotations

from typing import Any

from tensordict.utils import NestedKey
from torch import Tensor
from torch.distributions import Distribution

from ctmrl_torchrl.objectives.checks import require_shape


def require_action(
    action: Tensor, log_prob: Tensor, data_action: Tensor, *, key: NestedKey, reader: str
) -> None:
    """Require that policy and data share an action space, with one probability per action.

    Raises:
        ValueError: if the shapes differ.
    """
    require_shape(
        action,
        data_action.shape,
        reader=reader,
        what="the actor's action",
        hint=f"as the data's {key!r}: give the actor that many outputs.",
    )
    require_shape(
        log_prob,
        data_action.shape[:-1],
        reader=reader,
        what="the log-probability of the actor's action",
        hint="use a distribution that sums over the action's dimensions (IndependentNormal, TanhNormal).",
    )


def sample_and_score(distribution: Any) -> tuple[Tensor, Tensor]:
    """A reparameterized action ``[*, a]`` and its log-probability ``[*]``.

    Computing the log-probability of a squashed action afterwards inverts a rounded tanh. Near saturation the
    result is wrong by orders of magnitude, and its gradient pushes actions further out. TorchRL's
    ``TanhNormal`` computes the log-probability from its own sample instead.
    """
    if hasattr(distribution, "rsample_and_log_prob"):
        return distribution.rsample_and_log_prob()
    action = distribution.rsample()
    return action, distribution.log_prob(action)


def magnitude(distribution: Distribution) -> Tensor:
    """``mean(loc^2) + mean(log(scale)^2)``, ``[*]``, of a (transformed) location-scale distribution.

    Raises:
        TypeError: if neither the distribution nor its base has ``loc`` and ``scale``.
    """
    base: Any = distribution
    while not (hasattr(base, "loc") and hasattr(base, "scale")):
        if not hasattr(base, "base_dist"):
            raise TypeError(
                f"BRACSACLoss: a {type(distribution).__name__} has no loc and scale to regularise; choose an "
                "actor with a normal distribution (TanhNormal) or set regularisation=0."
            )
        base = base.base_dist
    return base.loc.square().mean(-1) + base.scale.log().square().mean(-1)
