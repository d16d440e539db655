"""Offline meta-reinforcement learning on TorchRL with cross-task context representations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctmrl_torchrl.agents import Agent
    from ctmrl_torchrl.commands.runs import run
    from ctmrl_torchrl.training.compose import register_method

__version__ = "0.2.0"

#: public names and their modules, imported on first use, so that importing the package is fast
_PUBLIC = {
    "Agent": "ctmrl_torchrl.agents",
    "run": "ctmrl_torchrl.commands.runs",
    "register_method": "ctmrl_torchrl.training.compose",
}

__all__ = ["Agent", "register_method", "run"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        from importlib import import_module

        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
