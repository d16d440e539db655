"""What a target update remembers between updates, for checkpoints."""

from __future__ import annotations

from typing import Any, cast

from torchrl.objectives import HardUpdate

from ctmrl_torchrl.objectives.policy import TargetUpdate


def target_state(update: TargetUpdate) -> dict[str, Any]:
    """The state of a target update; empty if every step is like the last.

    TorchRL's ``HardUpdate`` counts its steps and has no ``state_dict``.
    """
    if isinstance(update, HardUpdate):
        return {"counter": update.counter}
    return cast(Any, update).state_dict() if hasattr(update, "state_dict") else {}


def load_target_state(update: TargetUpdate, state: dict[str, Any]) -> None:
    """Load the output of :func:`target_state`."""
    if isinstance(update, HardUpdate):
        update.counter = state["counter"]
    elif state:
        cast(Any, update).load_state_dict(state)
