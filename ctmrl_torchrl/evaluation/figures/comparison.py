"""Comparison of methods: intervals of returns, performance profiles and adaptation curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ctmrl_torchrl.evaluation.figures import style
from ctmrl_torchrl.evaluation.figures.colors import dash

__all__ = ["plot_adaptation_panels", "plot_intervals", "plot_profiles"]

_LEAST = 7.4  # inches, for the title
#: least width of the margin with the methods' names, in inches, and the font size of the names
_SIDE, _NAMES = 1.75, 9.5
_LINE = 1.55 / 72  # height of a legend's line for each point of its font size, in inches


def _line(index: int) -> dict[str, Any]:
    """Color and dash of a method: the palette, then the palette again with other dashes."""
    again, place = divmod(index, len(style.PALETTE))
    return {"color": style.PALETTE[place], "linestyle": dash(again)}


@style.styled
def plot_intervals(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]],
    path: str | Path,
    *,
    title: str = "Final return with its interval over seeds",
    subtitle: str = "",
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Plot one panel per environment and one row per method with its seeds, their mean and the interval.

    Args:
        panels: ``{panel: {method: {"mean": float, "low": float or None, "high": ..., "runs": [S]}}}``.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line.
        references: ``{panel: {name: return}}``, drawn as vertical lines.

    Raises:
        ValueError: if there is no panel.
    """
    methods = _methods(panels)
    colours = {method: _line(index)["color"] for index, method in enumerate(methods)}
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    height = 0.9 + 0.3 * len(methods)
    figure = style.new_figure(max(3.3 * columns + 1.6, _LEAST), height * rows + 0.9)
    left = _side(figure, methods, _NAMES, besides=0.25)
    figure.set_figwidth(figure.get_figwidth() + left - _SIDE)
    grid = _grid(figure, rows, columns, left=left, top=0.95, gap=0.75, bottom=0.35)
    for index, (name, entries) in enumerate(panels.items()):
        axes = figure.add_axes(grid[index])
        _interval_panel(axes, entries, methods, colours, (references or {}).get(name, {}))
        axes.set_title(name)
        if index % columns:
            axes.set_yticklabels([])
    style.heading(figure, figure.axes[0], title, subtitle)
    return style.save_figure(figure, path)


def _interval_panel(
    axes: Axes,
    entries: Mapping[str, Mapping[str, Any]],
    methods: Sequence[str],
    colours: Mapping[str, str],
    references: Mapping[str, float],
) -> None:
    for height, method in enumerate(methods):
        entry = entries.get(method)
        if entry is None:
            continue
        colour = colours[method]
        axes.plot(
            entry["runs"], np.full(len(entry["runs"]), height), "o", color=colour, alpha=0.35, markersize=4
        )
        if entry.get("low") is not None:
            axes.plot([entry["low"], entry["high"]], [height, height], color=colour, linewidth=5, alpha=0.55)
        axes.plot(entry["mean"], height, "|", color=style.INK, markersize=11, markeredgewidth=2)
    for name, value in references.items():
        axes.axvline(value, color=style.MUTED, linestyle="-", linewidth=1.3, zorder=1.5)
        label = {"fontsize": 8.5, "color": style.MUTED, "ha": "right", "va": "top"}
        axes.text(value, 1.0, f"{name} ", transform=axes.get_xaxis_transform(), **label)
    axes.set_ylim(len(methods) - 0.4, -0.9 if references else -0.6)
    axes.set_yticks(range(len(methods)), methods, fontsize=_NAMES)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.08)


@style.styled
def plot_profiles(
    thresholds: Sequence[float] | np.ndarray,
    profiles: Mapping[str, tuple[np.ndarray, np.ndarray | None]],
    path: str | Path,
    *,
    title: str = "Share of runs that score above a threshold",
    subtitle: str = "",
) -> Path:
    """Plot performance profiles. A curve that is above another everywhere is better at every threshold.

    Args:
        thresholds: normalized scores, ``[T]``.
        profiles: ``{method: (fractions [T], ends of the intervals [2, T] or None)}``.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line.

    Raises:
        ValueError: if there is no method or a curve has another length.
    """
    if not profiles:
        raise ValueError("profiles contains no method; expected at least one.")
    figure = style.new_figure(8.6, max(4.8, 0.8 + _tall(profiles, 10) + 0.3))
    side = _side(figure, profiles, 10, besides=0.65)
    figure.set_figwidth(8.6 + side - _SIDE)
    (place,) = _grid(figure, 1, 1, left=0.77, top=0.8, gap=0.0, right=side + 0.23, bottom=0.62)
    axes = figure.add_axes(place)
    thresholds = style.to_array(thresholds, "thresholds", 1)
    for index, (name, (shares, interval)) in enumerate(profiles.items()):
        shares = style.to_array(shares, f"profiles[{name!r}]", 1)
        if shares.size != thresholds.size:
            raise ValueError(
                f"profiles[{name!r}] has {shares.size} values, expected one for each of the "
                f"{thresholds.size} thresholds."
            )
        line = _line(index)
        axes.plot(thresholds, shares, label=name, drawstyle="steps-post", **line)
        if interval is not None:
            color = line["color"]
            axes.fill_between(thresholds, *interval, color=color, alpha=0.12, linewidth=0, step="post")
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("normalized score (0: random policy, 1: best known return)")
    axes.set_ylabel("share of runs above")
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=10)
    style.heading(figure, axes, title, subtitle)
    return style.save_figure(figure, path)


@style.styled
def plot_adaptation_panels(
    panels: Mapping[str, Mapping[str, Mapping[str, Any]]],
    path: str | Path,
    *,
    title: str = "Return while adapting to unseen tasks",
    subtitle: str = "",
    references: Mapping[str, Mapping[str, float]] | None = None,
) -> Path:
    """Plot adaptation curves of several methods, with one panel per environment.

    Args:
        panels: ``{panel: {method: {"mean": [E], "low": [E] or None, "high": ...}}}``; entry ``k`` was
            measured after ``k`` collected episodes.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line.
        references: ``{panel: {name: return}}``, drawn as horizontal lines.

    Raises:
        ValueError: if there is no panel.
    """
    lines = {method: _line(index) for index, method in enumerate(_methods(panels))}
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    height = max(2.9 * rows + 0.9, 0.95 + _tall(lines, _NAMES))
    figure = style.new_figure(max(3.5 * columns + 2.2, _LEAST), height)
    side = _side(figure, lines, _NAMES, besides=0.65)
    figure.set_figwidth(figure.get_figwidth() + side - _SIDE)
    grid = _grid(figure, rows, columns, left=0.75, top=0.95, gap=0.85, right=side)
    for index, (name, entries) in enumerate(panels.items()):
        axes = figure.add_axes(grid[index])
        for method, entry in entries.items():
            mean = style.to_array(entry["mean"], f"{name}.{method}", 1)
            steps = np.arange(mean.size)
            axes.plot(steps, mean, label=method, linewidth=1.8, **lines[method])
            if entry.get("low") is not None:
                color = lines[method]["color"]
                axes.fill_between(steps, entry["low"], entry["high"], color=color, alpha=0.14, linewidth=0)
        for value in (references or {}).get(name, {}).values():
            style.reference_line(axes, value, style.MUTED, "-")
        axes.set_title(name)
        axes.set_xlabel("episodes collected")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if index % columns == 0:
            axes.set_ylabel("return")
    handles = {
        label: handle
        for axes in figure.axes
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    last = figure.axes[columns - 1]
    last.legend(
        handles.values(),
        handles.keys(),
        frameon=False,
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        fontsize=_NAMES,
    )
    style.heading(figure, figure.axes[0], title, subtitle)
    return style.save_figure(figure, path)


def _side(figure: Figure, names: Iterable[str], size: float, besides: float) -> float:
    """Width of the margin with the methods' names, in inches.

    Args:
        figure: the figure. names: the names. size: their font size.
        besides: what else the margin holds, such as a legend's lines.
    """
    return max(_SIDE, style.text_width(figure, names, size) + besides)


def _tall(names: Collection[str], size: float) -> float:
    """Height of a legend with one line a name, in inches."""
    return _LINE * size * (len(names) + 1)


def _methods(panels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not panels:
        raise ValueError("panels is empty; expected at least one environment.")
    return list(dict.fromkeys(method for entries in panels.values() for method in entries))


def _grid(
    figure: Figure,
    rows: int,
    columns: int,
    *,
    left: float,
    top: float,
    gap: float,
    right: float = 0.25,
    bottom: float = 0.55,
) -> list[tuple[float, float, float, float]]:
    """Panel rectangles, row by row; all arguments in inches."""
    width, height = figure.get_size_inches()
    between = 0.45
    panel_width = (width - left - right - between * (columns - 1)) / columns
    panel_height = (height - top - bottom - gap * (rows - 1)) / rows
    return [
        (
            (left + column * (panel_width + between)) / width,
            (height - top - panel_height - row * (panel_height + gap)) / height,
            panel_width / width,
            panel_height / height,
        )
        for row in range(rows)
        for column in range(columns)
    ]
