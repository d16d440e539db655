"""Numbers that must be finite: an agent that is broken must not go on, nor replace one that is not."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn


class NotFiniteError(FloatingPointError):
    """A loss, a parameter or a return is not finite; the message names it, and the last checkpoint stays."""


def require_finite(finite: Mapping[str, bool], update: int) -> None:
    """Refuse to go on unless everything is finite.

    Args:
        finite: by name, whether it is. update: number of updates made.

    Raises:
        NotFiniteError: naming what is not finite.

    Examples:
        >>> require_finite({"loss/loss_value": True}, 3)
    """
    broken = [name for name, fine in finite.items() if not fine]
    if broken:
        raise NotFiniteError(
            f"After {update} updates these are not finite: {', '.join(broken)}. The last "
            "checkpoint, if there is one, is from before; lower optimizer.policy_rate or "
            "optimizer.representation_rate."
        )


def finite_parameters(module: nn.Module) -> dict[str, bool]:
    """Whether each parameter is finite: one answer for all of them, so that a GPU is waited for once.

    Examples:
        >>> finite_parameters(nn.Linear(2, 1))
        {'weight': True, 'bias': True}
    """
    named = {name: value for name, value in module.named_parameters() if value.numel()}
    if not named:
        return {}
    finite = torch.stack([value.detach().isfinite().all() for value in named.values()]).tolist()
    return dict(zip(named, finite, strict=True))
