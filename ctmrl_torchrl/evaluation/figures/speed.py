"""Speed over time with the target speed of the task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_speed"]

MAX_TASKS = len(style.PALETTE)


@style.styled
def plot_speed(
    before: Any,
    after: Any,
    targets: Any,
    step: float,
    path: str | Path,
    *,
    titles: tuple[str, str] = ("Before: the first episode", "After adaptation"),
    title: str = "How fast the robot runs before and after adaptation",
    subtitle: str | None = None,
) -> Path:
    """Plot one line per task in two panels, each with a dashed line at the target speed.

    Args:
        before: ``[n, H + 1]`` positions along the track in m before adaptation, at most eight tasks.
        after: ``[n, H' + 1]`` positions after adaptation, same tasks in the same order.
        targets: ``[n]`` target speed in m/s.
        step: seconds between two positions.
        path: PNG file to write.
        titles: titles of the two panels.
        title: title of the figure.
        subtitle: second, lighter line.

    Raises:
        ValueError: if shapes do not match or there are more tasks than colors.
    """
    targets = style.to_array(targets, "targets", 1)
    count = targets.size
    if not 1 <= count <= MAX_TASKS:
        raise ValueError(f"Show between 1 and {MAX_TASKS} tasks, got {count}; select fewer rows.")
    places = [style.to_array(before, "before", 2), style.to_array(after, "after", 2)]
    for name, array in zip(("before", "after"), places, strict=True):
        if array.shape[0] != count or array.shape[1] < 2:
            raise ValueError(f"{name} must have the shape [{count}, steps], got {list(array.shape)}.")
    speeds = [np.diff(array, axis=1) / step for array in places]
    low = min(0.0, *(float(np.quantile(speed, 0.01)) for speed in speeds))
    high = max(float(targets.max()), *(float(np.quantile(speed, 0.995)) for speed in speeds))
    figure = style.new_figure(11.4, 4.7)
    for index, (speed, name) in enumerate(zip(speeds, titles, strict=True)):
        axes = figure.add_axes((0.06 + 0.4 * index, 0.13, 0.375, 0.62))
        _panel(axes, speed, targets, step)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.08 * (high - low))
        axes.set_title(name)
        axes.set_xlabel("seconds")
        if index:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("speed in m/s")
            first = axes
    labels = [
        style.Label(target, f"task: {target:.2f} m/s", style.PALETTE[index])
        for index, target in enumerate(targets)
    ]
    note = "bold: mean over half a second; thin: as simulated"
    style.heading(figure, first, title, " · ".join(filter(None, (subtitle, note))))
    style.label_margin(axes, labels)
    return style.save_figure(figure, path)


def _panel(axes: Axes, speeds: np.ndarray, targets: np.ndarray, step: float) -> None:
    window = np.ones(max(1, round(0.5 / step)))
    for index, (speed, target) in enumerate(zip(speeds, targets, strict=True)):
        colour = style.PALETTE[index]
        seconds = step * np.arange(1, speed.size + 1)
        smooth = np.convolve(speed, window, "same") / np.convolve(np.ones_like(speed), window, "same")
        axes.plot(seconds, speed, color=colour, alpha=0.22, linewidth=0.8)
        axes.plot(seconds, smooth, color=colour)
        axes.axhline(target, color=colour, linestyle=(0, (4, 3)), linewidth=1.2)
    axes.set_xlim(0, step * speeds.shape[1])
