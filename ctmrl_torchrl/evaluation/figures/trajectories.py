"""Paths in the plane before and after adaptation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_trajectories"]

MAX_TASKS = len(style.PALETTE)


@style.styled
def plot_trajectories(
    panels: Mapping[str, Any],
    goals: Any,
    path: str | Path,
    *,
    goal_radius: float | None = None,
    labels: Sequence[str] | None = None,
    title: str = "Where the robot goes before and after adaptation",
    subtitle: str | None = None,
) -> Path:
    """Plot one path per task in panels of equal scale, with start and goals.

    Args:
        panels: ``{title: [n, H + 1, 2]}`` positions, such as before and after adaptation, of the same
            tasks, at most eight; NaN after an early end.
        goals: ``[n, 2]`` goal of each task.
        path: PNG file to write.
        goal_radius: draws a circle of this radius around the goals (0.2 in the sparse family).
        labels: one name per task; defaults to "task 1", ...
        title: title of the figure.
        subtitle: second, lighter line.

    Raises:
        ValueError: if shapes do not match or there are more tasks than colors.
    """
    if not panels:
        raise ValueError("panels contains no paths; expected at least one {title: paths}.")
    paths = {name: style.to_array(values, f"panels[{name!r}]", 3) for name, values in panels.items()}
    goals = style.to_array(goals, "goals", 2)
    count = goals.shape[0]
    for name, array in paths.items():
        if array.shape[0] != count or array.shape[-1] != 2:
            raise ValueError(
                f"{name} must have the shape [{count}, steps, 2] (one row per goal), got {list(array.shape)}."
            )
    if not 1 <= count <= MAX_TASKS:
        raise ValueError(f"Show between 1 and {MAX_TASKS} tasks, got {count}; select fewer rows.")
    names = [f"task {index + 1}" for index in range(count)] if labels is None else list(labels)
    if len(names) != count:
        raise ValueError(f"labels has {len(names)} entries for {count} tasks.")

    limits = _limits([*paths.values()], goals, goal_radius or 0.0)
    span = limits[:, 1] - limits[:, 0]
    panel = 3.9  # inches of width per panel; the height follows from the equal scale
    height = float(np.clip(panel * span[1] / span[0], 1.8, 6.0))
    figure = style.new_figure(0.85 + len(paths) * (panel + 0.3) + 2.05, height + 1.75)
    width, tall = figure.get_size_inches()
    for index, (name, drawn) in enumerate(paths.items()):
        left = (0.85 + index * (panel + 0.3)) / width
        axes = figure.add_axes((left, 0.62 / tall, panel / width, height / tall))
        _panel(axes, drawn, goals, goal_radius)
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])
        axes.set_aspect("equal")
        axes.set_title(name)
        axes.set_xlabel("x position")
        if index == 0:
            axes.set_ylabel("y position")
            first = axes
        else:
            axes.tick_params(labelleft=False)
    _legend(axes, names, goal_radius)
    style.heading(figure, first, title, subtitle or "")
    return style.save_figure(figure, path)


def _limits(paths: list[np.ndarray], goals: np.ndarray, radius: float) -> np.ndarray:
    points = np.concatenate([*(path.reshape(-1, 2) for path in paths), goals - radius, goals + radius])
    points = points[np.isfinite(points).all(1)]
    low, high = points.min(0), points.max(0)
    margin = 0.07 * (high - low).max()
    low, high = low - margin, high + margin
    # Limit the aspect ratio to 0.45, so that panels do not become too narrow.
    short = np.maximum(0.45 * (high - low).max() - (high - low), 0) / 2
    return np.stack([low - short, high + short], 1)


def _panel(axes: Axes, paths: np.ndarray, goals: np.ndarray, radius: float | None) -> None:
    shared = len(np.unique(np.round(goals, 6), axis=0)) == 1
    for index, (path, goal) in enumerate(zip(paths, goals, strict=True)):
        colour = style.PALETTE[index]
        goal_colour = style.INK if shared else colour
        if radius is not None:
            axes.add_patch(
                Circle(goal, radius, facecolor=goal_colour, edgecolor=goal_colour, alpha=0.13, zorder=1)
            )
        axes.plot(*path.T, color=colour, linewidth=1.7, marker="o", markersize=3, zorder=3, alpha=0.9)
        last = path[np.isfinite(path).all(1)][-1]
        axes.plot(*last, color=colour, marker="o", markersize=7.5, markeredgecolor="white", zorder=5)
        axes.plot(*goal, color=goal_colour, marker="*", markersize=17, markeredgecolor="white", zorder=4)
    axes.plot(*paths[0, 0], color=style.INK, marker="s", markersize=8, markeredgecolor="white", zorder=6)


def _legend(axes: Axes, names: Sequence[str], radius: float | None) -> None:
    def mark(marker: str, size: float) -> Line2D:
        return Line2D([], [], color=style.INK, marker=marker, markersize=size, linestyle="none")

    handles = [Line2D([], [], color=style.PALETTE[index], linewidth=2.4) for index in range(len(names))]
    handles += [mark("s", 8), mark("*", 14), mark("o", 7)]
    texts = [*names, "start", "goal", "end of the episode"]
    if radius is not None:
        handles.append(
            Line2D([], [], color=style.INK, alpha=0.2, marker="o", markersize=13, linestyle="none")
        )
        texts.append(f"reward only within\n{radius:g} of the goal")
    axes.legend(
        handles,
        texts,
        loc="upper left",
        bbox_to_anchor=(1.03, 1.03),
        frameon=False,
        fontsize=10,
        labelspacing=0.6,
    )
