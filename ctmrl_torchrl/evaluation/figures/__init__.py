"""Figures of a run. Each function takes plain arrays and writes one PNG file.

Names are imported on first use, so that a training loads Matplotlib when it draws, not when it starts.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ctmrl_torchrl.evaluation.figures.adaptation import plot_adaptation
    from ctmrl_torchrl.evaluation.figures.code_distances import order_codes, plot_code_distances
    from ctmrl_torchrl.evaluation.figures.codes_sweep import plot_codes_sweep
    from ctmrl_torchrl.evaluation.figures.comparison import (
        plot_adaptation_panels,
        plot_intervals,
        plot_profiles,
    )
    from ctmrl_torchrl.evaluation.figures.context_shift import plot_context_shift
    from ctmrl_torchrl.evaluation.figures.contexts import plot_context_map
    from ctmrl_torchrl.evaluation.figures.film import plot_film, save_film
    from ctmrl_torchrl.evaluation.figures.learning import plot_learning, read_metrics
    from ctmrl_torchrl.evaluation.figures.snapshots import plot_snapshot_returns
    from ctmrl_torchrl.evaluation.figures.speed import plot_speed
    from ctmrl_torchrl.evaluation.figures.trajectories import plot_trajectories

__all__ = [
    "order_codes",
    "plot_adaptation",
    "plot_adaptation_panels",
    "plot_code_distances",
    "plot_codes_sweep",
    "plot_context_map",
    "plot_context_shift",
    "plot_film",
    "save_film",
    "plot_intervals",
    "plot_learning",
    "plot_profiles",
    "plot_snapshot_returns",
    "plot_speed",
    "plot_trajectories",
    "read_metrics",
]

_MODULES = {
    "adaptation": ("plot_adaptation",),
    "code_distances": ("order_codes", "plot_code_distances"),
    "codes_sweep": ("plot_codes_sweep",),
    "comparison": (
        "plot_adaptation_panels",
        "plot_intervals",
        "plot_profiles",
    ),
    "context_shift": ("plot_context_shift",),
    "contexts": ("plot_context_map",),
    "film": (
        "plot_film",
        "save_film",
    ),
    "learning": (
        "plot_learning",
        "read_metrics",
    ),
    "snapshots": ("plot_snapshot_returns",),
    "speed": ("plot_speed",),
    "trajectories": ("plot_trajectories",),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
