"""Context shift in one figure: the same protocols with differently trained encoders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_context_shift"]

_PANEL = (3.7, 3.5)
_MARGIN = 2.45  # inches right of a panel, for its labels


@style.styled
def plot_context_shift(
    settings: Mapping[str, Mapping[str, Any]],
    optimum: float | None,
    path: str | Path,
    *,
    floor: float = -20.0,
    title: str = "Context shift: good with offline contexts is not good in the task",
    subtitle: str | None = None,
) -> Path:
    """Plot one panel per setting and one curve per protocol: return versus collected episodes.

    Args:
        settings: ``{setting: {protocol: returns [E]}}``; entry ``k`` was measured after ``k`` episodes.
        optimum: best possible return, or ``None``.
        path: PNG file to write.
        floor: lower end of the return axis.
        title: title of the figure.
        subtitle: second, lighter line.

    Raises:
        ValueError: if there is no setting.
    """
    if not settings:
        raise ValueError("settings is empty; expected at least one, such as {'whole trajectories': {...}}.")
    width, height = 0.9 + len(settings) * (_PANEL[0] + _MARGIN), _PANEL[1] + 1.75
    figure = style.new_figure(width, height)
    first = None
    for index, (name, curves) in enumerate(settings.items()):
        left = 0.9 + index * (_PANEL[0] + _MARGIN)
        axes = figure.add_axes((left / width, 0.62 / height, _PANEL[0] / width, _PANEL[1] / height))
        labels = []
        for protocol, look in style.protocol_looks(curves).items():
            returns = np.asarray(curves[protocol], dtype=float)
            axes.plot(returns, **look._asdict(), marker="o", markersize=3.5)
            value = f"({style.number(returns[-1])})"
            labels.append(style.Label(returns[-1], style.protocol_text(protocol, value), look.color))
        if optimum is not None:
            style.reference_line(axes, optimum, style.INK, "-")
            labels.append(
                style.Label(optimum, style.reference_text("optimum", f"({style.number(optimum)})"), style.INK)
            )
        axes.set_ylim(floor, (optimum or max(label.y for label in labels)) + 0.8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("episodes collected in the new task")
        axes.set_title(name, fontsize=11, loc="left")
        style.label_margin(axes, labels)
        if first is None:
            first = axes
            axes.set_ylabel("return of one episode (higher is better)")
    assert first is not None  # there is at least one setting
    style.heading(figure, first, title, subtitle or "")
    return style.save_figure(figure, path)
