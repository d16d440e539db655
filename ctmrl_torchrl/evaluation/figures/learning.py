"""Training curves from ``metrics.csv``."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_learning", "read_metrics"]

Series = dict[str, tuple[np.ndarray, np.ndarray]]
Best = tuple[str, float | None]

_COLUMNS = 3
_MAX_POINTS = 300
_PANEL = (2.3, 1.95)  # inches: width, height
_GAP = (1.95, 1.2)  # room for the labels on the right, and for titles and tick labels


def read_metrics(path: str | Path) -> Series:
    """Read a ``metrics.csv`` in long format (columns ``step``, ``name``, ``value``).

    Returns:
        ``{name: (steps, values)}``, ordered by step.

    Raises:
        ValueError: if a column is missing or a cell is not a number; the message contains the line.
    """
    rows: dict[str, list[tuple[float, float]]] = {}
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        missing = {"step", "name", "value"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{path} lacks the column(s) {sorted(missing)}; expected step,name,value.")
        for row in reader:
            try:
                rows.setdefault(row["name"], []).append((float(row["step"]), float(row["value"])))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: expected numbers, got {row}.") from error
    return {name: _series(name, pairs) for name, pairs in rows.items()}


@style.styled
def plot_learning(
    metrics: str | Path | Mapping[str, Any],
    path: str | Path,
    *,
    random: float | None = None,
    optimum: float | None = None,
    codes: int | None = None,
    title: str = "What happened during training",
    subtitle: str | None = None,
    best_name: str = "optimum",
    milestones: Mapping[str, float] | None = None,
) -> Path:
    """Plot returns by protocol, every loss, code usage and context noise versus updates.

    Args:
        metrics: path of a ``metrics.csv``, ``{name: (steps, values)}`` or ``{name: [(step, value), ...]}``.
            Names: ``eval/{test,train}/PROTOCOL/return``, ``loss/...``, ``codebook/perplexity``,
            ``codebook/dead_codes``, ``context_noise/PROTOCOL``. Missing groups are omitted.
        path: PNG file to write.
        random: return of the random policy; noted if it lies below the axis.
        optimum: best possible return, a line in the returns panel.
        codes: size of the codebook, a line in the code panel.
        title: title of the figure.
        subtitle: second, lighter line.
        best_name: name of the best possible return.
        milestones: ``{"policy begins": update, ...}``, thin vertical lines. Codebook usage is only drawn
            after ``"codes begin"``.

    Raises:
        ValueError: if none of the names is known.
    """
    series = read_metrics(metrics) if isinstance(metrics, (str, Path)) else _from_mapping(metrics)
    milestones = dict(milestones or {})
    for name in ("codebook/perplexity", "codebook/dead_codes"):
        if name in series and "codes begin" in milestones:
            steps, values = series[name]
            used = steps > milestones["codes begin"]
            series[name] = steps[used], values[used]
    series = {name: pair for name, pair in series.items() if pair[0].size}
    panels = _panels(series, random, (best_name, optimum), codes)
    if not panels:
        raise ValueError(
            f"metrics contains no series that can be plotted (eval/.../return, loss/..., codebook/..., "
            f"context_noise/...); it has {sorted(series)[:20]}."
        )
    rows = -(-len(panels) // _COLUMNS)
    columns = min(len(panels), _COLUMNS)
    width, height = columns * (_PANEL[0] + _GAP[0]) + 0.3, rows * (_PANEL[1] + _GAP[1]) + 0.75
    figure = style.new_figure(width, height)
    last_step = max(steps[-1] for steps, _ in series.values())
    for index, draw in enumerate(panels):
        row, column = divmod(index, _COLUMNS)
        left = 0.75 + column * (_PANEL[0] + _GAP[0])
        bottom = height - 0.75 - (row + 1) * (_PANEL[1] + _GAP[1]) + 0.62
        axes = figure.add_axes((left / width, bottom / height, _PANEL[0] / width, _PANEL[1] / height))
        axes.set_xlim(-0.02 * last_step, 1.02 * last_step)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        labels = draw(axes)
        for update in milestones.values():
            axes.axvline(update, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=1.0, zorder=1.2)
        axes.set_xlabel("updates")
        style.label_margin(axes, labels, size=9.5)
        if index == 0:
            marks = ", ".join(f"{name} at {update:,.0f}" for name, update in milestones.items())
            notes = (subtitle, f"dotted: {marks}" if marks else "")
            style.heading(figure, axes, title, " \u00b7 ".join(filter(None, notes)))
    return style.save_figure(figure, path)


def _panels(
    series: Series, random: float | None, best: Best, codes: int | None
) -> list[Callable[[Axes], list[style.Label]]]:
    panels: list[Callable[[Axes], list[style.Label]]] = []
    for split, text in (("test", "unseen test tasks"), ("train", "training tasks")):
        found = {
            name.split("/")[2]: values
            for name, values in series.items()
            if name.startswith(f"eval/{split}/") and name.endswith("/return") and name.count("/") == 3
        }
        if found:
            panels.append(lambda axes, found=found, text=text: _returns(axes, found, text, random, best))
    noise = {
        name.split("/", 1)[1]: values for name, values in series.items() if name.startswith("context_noise/")
    }
    if noise:
        panels.append(lambda axes: _noise(axes, noise))
    usage = {
        name: series[f"codebook/{name}"]
        for name in ("perplexity", "dead_codes")
        if f"codebook/{name}" in series
    }
    if usage:
        panels.append(lambda axes: _usage(axes, usage, codes))
    for name, values in series.items():
        if name.startswith("loss/"):
            panels.append(lambda axes, name=name, values=values: _loss(axes, name, values))
    return panels


def _returns(axes: Axes, found: Series, text: str, random: float | None, best: Best) -> list[style.Label]:
    best_name, optimum = best
    labels = []
    for index, (protocol, (steps, values)) in enumerate(found.items()):
        colour = style.protocol_colour(protocol, index)
        axes.plot(steps, values, color=colour, marker="o", markersize=3.5 if steps.size <= 40 else 0)
        labels.append(style.Label(values[-1], f"{protocol}  {style.number(values[-1])}", colour))
    means = np.concatenate([values for _, values in found.values()])
    top = float(max(means.max(), -np.inf if optimum is None else optimum))
    if optimum is not None:
        style.reference_line(axes, optimum, style.INK, "-")
        labels.append(style.Label(optimum, best_name, style.INK))
    finals = np.array([values[-1] for _, values in found.values()])
    floor = style.clipped_floor(means, finals, top, random)
    axes.set_ylim(floor, top + 0.07 * (top - floor))
    if random is not None and random < floor:
        labels.append(style.below_axis(floor, f"random\n{style.number(random, 1)}"))
    _title(axes, f"Return, {text}", "of the final episode, fewer repeats than the summary's")
    return labels


def _noise(axes: Axes, noise: Series) -> list[style.Label]:
    labels = []
    names = list(noise)
    for index, (protocol, (steps, values)) in enumerate(noise.items()):
        positive = values > 0
        if positive.any():
            colour = style.protocol_colour(protocol, index)
            # np1, np10, ... share a color; later ones are dashed and dotted.
            same = sum(
                style.protocol_colour(other, place) == colour for place, other in enumerate(names[:index])
            )
            axes.plot(
                steps[positive],
                values[positive],
                color=colour,
                linestyle=("-", (0, (4, 2)), (0, (1, 1.5)))[same % 3],
                marker="o",
                markersize=3.5,
            )
            labels.append(style.Label(values[positive][-1], protocol, colour))
    axes.set_yscale("log")
    _title(axes, "Context noise", "variance within / between tasks; large explains failure")
    return labels


def _usage(axes: Axes, usage: Series, codes: int | None) -> list[style.Label]:
    labels = []
    for name, text, colour in (
        ("perplexity", "codes in use\n(perplexity)", style.PALETTE[2]),
        ("dead_codes", "dead codes", style.PALETTE[1]),
    ):
        if name in usage:
            steps, values = usage[name]
            axes.plot(steps, values, color=colour)
            labels.append(style.Label(values[-1], text, colour))
    if codes is not None:
        style.reference_line(axes, codes, style.INK, "-")
        labels.append(style.Label(codes, f"all {codes} codes", style.INK))
    highest = max([float(values.max()) for _, values in usage.values()] + ([codes] if codes else []))
    axes.set_ylim(-0.05 * max(highest, 1), 1.1 * max(highest, 1))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _title(axes, "Use of the codebook", "number of codes")
    return labels


def _loss(axes: Axes, name: str, values: tuple[np.ndarray, np.ndarray]) -> list[style.Label]:
    steps, raw = values
    stride = -(-steps.size // _MAX_POINTS)
    blue = style.PALETTE[0]
    window = max(1, steps.size // 30)
    smooth = raw
    if window > 1:
        kernel = np.ones(window)
        smooth = np.convolve(raw, kernel, "same") / np.convolve(np.ones_like(raw), kernel, "same")
        axes.plot(steps[::stride], raw[::stride], color=blue, alpha=0.25, linewidth=0.8)
    axes.plot(steps[::stride], smooth[::stride], color=blue)
    if raw.min() > 0 and raw.max() > 50 * raw.min():
        axes.set_yscale("log")
    kind = name.split("/", 1)[1].removeprefix("loss_").replace("_", " ")
    _title(axes, f"Loss: {kind}", "thin: as logged; bold: running mean" if window > 1 else "as logged")
    return [style.Label(smooth[-1], f"{smooth[-1]:.3g}".replace("-", "\u2212"), blue)]


def _title(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title, fontsize=11.5, pad=20)
    axes.text(0, 1.045, note, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")


def _from_mapping(metrics: Mapping[str, Any]) -> Series:
    series = {}
    for name, values in metrics.items():
        if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1:
            steps, values = (style.to_array(part, f"metrics[{name!r}]", 1) for part in values)
            if steps.size != values.size:
                raise ValueError(f"metrics[{name!r}] has {steps.size} steps but {values.size} values.")
            values = np.stack([steps, values], 1)
        series[name] = _series(name, values)
    return {name: pair for name, pair in series.items() if pair[0].size}


def _series(name: str, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    array = style.to_array(pairs, f"metrics[{name!r}]").reshape(-1, 2)
    array = array[np.isfinite(array).all(1)]
    array = array[np.argsort(array[:, 0], kind="stable")]
    return array[:, 0], array[:, 1]


def _short(value: float, _: int | None = None) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
