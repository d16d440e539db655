"""Figures of a run. Each function takes plain arrays and writes one PNG file."""

from ctmrl_torchrl.evaluation.figures.adaptation import plot_adaptation
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
    "plot_adaptation",
    "plot_adaptation_panels",
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
