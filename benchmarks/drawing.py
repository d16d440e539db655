"""The picture of the scaling benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl.evaluation.figures import style


@style.styled
def plot_scaling(axes: Mapping[str, Mapping[str, Any]], path: str | Path) -> Path:
    """One panel per axis: time of an update and peak memory against the size, both scales logarithmic.

    Args:
        axes: as ``benchmarks/scaling.py`` writes them.
        path: PNG file to write.
    """
    figure = style.new_figure(3.1 * len(axes) + 0.4, 5.6)
    grid = figure.subplots(2, len(axes), squeeze=False)
    rows = (("cpu_ms", "time of an update, ms", style.PALETTE[0]),
            ("peak_memory_mb", "peak memory, MB", style.PALETTE[1]))  # fmt: skip
    for column, axis in enumerate(axes.values()):
        sizes = np.array([point["size"] for point in axis["points"]], dtype=float)
        for row, (key, label, colour) in enumerate(rows):
            panel = grid[row][column]
            values = np.array([point[key] for point in axis["points"]])
            panel.loglog(sizes, values, color=colour, marker="o", markersize=5)
            # What growing in proportion to the size, from the last point backwards, would look like.
            panel.loglog(
                sizes, values[-1] * sizes / sizes[-1], color=style.MUTED, linestyle=":", linewidth=1.4
            )
            panel.set_ylim(values.min() / 3, values.max() * 3)
            panel.minorticks_off()
            if column == 0:
                panel.set_ylabel(label)
            if row == 1:
                panel.set_xlabel(axis["name"])
    figure.suptitle(
        "How an update grows\n", x=0.02, ha="left", fontsize=14, fontweight="bold", color=style.INK
    )
    figure.text(
        0.02, 0.925, "Point-Robot, preset quick, one CPU thread; dotted: in proportion to the size",
        color=style.MUTED, fontsize=10.5,
    )  # fmt: skip
    figure.tight_layout(rect=(0, 0, 1, 0.93))
    return style.save_figure(figure, path)
