"""The picture of the scaling benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator

from ctmrl_torchrl.evaluation.figures import style


def _short(value: float, _position: int) -> str:
    """``4,000,000`` as ``4M``: there is little room below a panel."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{round(value / unit, 1):g}{letter}"
    return f"{value:g}"


@style.styled
def plot_scaling(axes: Mapping[str, Mapping[str, Any]], path: str | Path) -> Path:
    """One panel per axis: time of an update and peak memory against the size, both scales logarithmic.

    Args:
        axes: as ``benchmarks/scaling.py`` writes them.
        path: PNG file to write.
    """
    figure = style.new_figure(max(3.1 * len(axes) + 0.4, 7.0), 6.0)
    grid = figure.subplots(2, len(axes), squeeze=False)
    rows = (("cpu_ms", "time of an update, ms", style.PALETTE[0]),
            ("peak_memory_mb", "peak memory, MB", style.PALETTE[1]))  # fmt: skip
    for column, entry in enumerate(axes.values()):
        sizes = np.array([point["size"] for point in entry["points"]], dtype=float)
        for row, (key, label, colour) in enumerate(rows):
            panel = grid[row][column]
            values = np.array([point[key] for point in entry["points"]])
            panel.loglog(sizes, values, color=colour, marker="o", markersize=5)
            # What growing in proportion to the size, from the last point backwards, would look like.
            panel.loglog(
                sizes, values[-1] * sizes / sizes[-1], color=style.MUTED, linestyle=":", linewidth=1.4
            )
            panel.set_ylim(values.min() / 2.5, values.max() * 2.5)
            panel.set_xticks(sizes)
            panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            for axis in (panel.xaxis, panel.yaxis):
                axis.set_major_formatter(FuncFormatter(_short))
            panel.minorticks_off()
            if column == 0:
                panel.set_ylabel(label)
            if row == 1:
                panel.set_xlabel(entry["name"])
    figure.tight_layout(rect=(0, 0, 1, 0.88))
    figure.text(
        0.02, 0.945, "How an update grows", fontsize=15, fontweight="bold", color=style.INK, va="bottom"
    )  # fmt: skip
    figure.text(
        0.02, 0.935, "Point-Robot, preset quick, one CPU thread; dotted: in proportion to the size",
        color=style.MUTED, fontsize=11, va="top",
    )  # fmt: skip
    return style.save_figure(figure, path)
