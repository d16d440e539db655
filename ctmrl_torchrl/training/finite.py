"""Checks for finite values, so that a diverged agent neither continues nor overwrites a good checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from ctmrl_torchrl.rules import NotFiniteError


def require_finite(finite: Mapping[str, bool], update: int) -> None:
    """Raise an error unless all values are finite.

    Args:
        finite: whether each named value is finite. update: number of updates made.


    Raises:
        NotFiniteError: with the names of the values that are not finite.

    Examples:
        >>> require_finite({"loss/loss_value": True}, 3)
    """
    broken = [name for name, fine in finite.items() if not fine]
    if broken:
        raise NotFiniteError(
            f"After {update} updates these are not finite: {', '.join(broken)}. The last "
            "checkpoint, if there is one, is from before that; lower optimizer.policy_rate or "
            "optimizer.representation_rate."
        )


def finite_parameters(module: nn.Module) -> dict[str, bool]:
    """Whether each parameter is finite, computed with a single GPU synchronization.

    Examples:
        >>> finite_parameters(nn.Linear(2, 1))
        {'weight': True, 'bias': True}
    """
    named = {name: value for name, value in module.named_parameters() if value.numel()}
    if not named:
        return {}
    finite = torch.stack([value.detach().isfinite().all() for value in named.values()]).tolist()
    return dict(zip(named, finite, strict=True))
