"""Quality of the behavior data: return of every snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_snapshot_returns"]


_STEP = "training step at which the agent (behavior) was saved"
_NUMBER = "snapshot of the behavior (0: the least trained)"


@style.styled
def plot_snapshot_returns(
    steps: Any,
    returns: Any,
    random: float | None,
    optimum: float | None,
    path: str | Path,
    *,
    title: str = "How good is the agent that made the data?",
    subtitle: str | None = None,
    numbered: bool = False,
    best_name: str = "optimum",
) -> Path:
    """Plot the mean return per behavior snapshot with the spread over tasks.

    Args:
        steps: ``[S]`` training step of each snapshot, or its number.
        returns: ``[S, n_tasks]`` mean return of each snapshot in each task; NaN where it has no data.
        random: return of the random policy, or ``None``.
        optimum: best possible return, or ``None``.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line.
        numbered: whether ``steps`` are numbers of snapshots, because their training steps are unknown.
        best_name: name of the best possible return.

    Raises:
        ValueError: if the shapes do not match.
    """
    steps, returns = style.to_array(steps, "steps", 1), style.to_array(returns, "returns", 2)
    if steps.size != returns.shape[0] or returns.size == 0:
        raise ValueError(
            f"returns must have the shape [snapshots, tasks] with {steps.size} snapshots, "
            f"got {list(returns.shape)}."
        )
    figure = style.new_figure(9.2, 4.8)
    axes = figure.add_axes((0.1, 0.13, 0.655, 0.69))
    blue = style.PALETTE[0]
    mean = np.nanmean(returns, 1)
    low, high = np.nanquantile(returns, [0.1, 0.9], axis=1)
    axes.fill_between(
        steps, np.nanmin(returns, 1), np.nanmax(returns, 1), color=blue, alpha=0.10, linewidth=0
    )
    axes.fill_between(steps, low, high, color=blue, alpha=0.20, linewidth=0)
    axes.plot(steps, mean, color=blue, marker="o", markersize=6, markeredgecolor="white")
    labels = [style.Label(mean[-1], f"last snapshot,\nmean over tasks ({style.number(mean[-1])})", blue)]
    if best_name == "behavior":  # the curve is that agent too
        best_name = "behavior without exploration noise"
    for value, text, colour, dash in (
        (optimum, style.reference_text(best_name, f"({style.number(optimum or 0.0, 3)})"), style.INK, "-"),
        (random, f"random policy ({style.number(random or 0.0)})", style.MUTED, ":"),
    ):
        if value is not None:
            style.reference_line(axes, value, colour, dash)
            labels.append(style.Label(value, text, colour))
    axes.margins(x=0.03, y=0.07)
    axes.xaxis.set_major_formatter(FuncFormatter(style.short_number))
    if numbered:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(_NUMBER if numbered else _STEP)
    axes.set_ylabel("return of one episode (higher is better)")
    shades = f"shaded: middle 80 % and full range of {returns.shape[1]} tasks"
    style.heading(figure, axes, title, " · ".join(filter(None, (subtitle, shades))))
    style.label_margin(axes, labels)
    return style.save_figure(figure, path)
