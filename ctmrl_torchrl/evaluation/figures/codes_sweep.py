"""Final return versus the size of the codebook."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_codes_sweep"]


@style.styled
def plot_codes_sweep(
    results: Mapping[str, Mapping[str, Any]],
    optimum: float | None,
    path: str | Path,
    *,
    random: float | None = None,
    title: str = "How many codes does the codebook need?",
    subtitle: str | None = None,
    interval: str = "95 % interval",
) -> Path:
    """Plot the final return of each protocol versus the number of codes N, with intervals.

    Args:
        results: ``{protocol: {"codes": [K], "mean": [K], "low": [K], "high": [K]}}`` (``low``/``high`` may be
            missing); arrays, tensors or a nested TensorDict. The name ``"paper"`` draws the paper's Table 3.
        optimum: best possible return, or ``None``.
        path: PNG file to write.
        random: return of the random policy; noted if it lies below the axis.
        title: title of the figure.
        subtitle: second, lighter line.
        interval: meaning of the bars; empty if there are none.

    Raises:
        ValueError: if there is no protocol or the arrays of a protocol differ in length.
    """
    if not len(results.keys()):
        raise ValueError("results contains no protocol; expected at least one, such as 'np'.")
    figure = style.new_figure(9.2, 5.0)
    axes = figure.add_axes((0.1, 0.125, 0.63, 0.705))
    labels, every_mean, every_high, every_code = [], [], [], []
    names = list(results.keys())
    looks = style.protocol_looks(name for name in names if name != "paper")
    for index, name in enumerate(names):
        entry = results[name]
        codes, mean = (
            style.to_array(entry[key], f"results[{name!r}][{key!r}]", 1) for key in ("codes", "mean")
        )
        ends = [
            mean if entry.get(key, None) is None else style.to_array(entry[key], key, 1)
            for key in ("low", "high")
        ]
        if not codes.size == mean.size == ends[0].size == ends[1].size or codes.size == 0 or codes.min() <= 0:
            raise ValueError(
                f"results[{name!r}] must hold one positive number of codes, mean, low and high per setting, "
                f"got {codes.size} codes, {mean.size} means, {ends[0].size} low and {ends[1].size} high ends."
            )
        order = np.argsort(codes)
        codes, mean, low, high = (values[order] for values in (codes, mean, *ends))
        paper = name == "paper"
        look = style.Look(style.MUTED, (0, (4, 3))) if paper else looks[name]
        shift = 2 ** (
            0.05 * (index - (len(names) - 1) / 2)
        )  # side by side, so that the bars do not hide each other
        axes.errorbar(
            codes * shift,
            mean,
            yerr=np.clip([mean - low, high - mean], 0, None),
            **look._asdict(),
            marker="s" if paper else "o",
            markersize=6,
            elinewidth=1.6,
            capsize=3.5,
        )
        text = "published result of CTMRL\n(Table 3)" if paper else style.protocol_text(name)
        labels.append(style.Label(mean[-1], text, look.color))
        every_mean.append(np.concatenate([mean, low]))
        every_high.append(high)
        every_code.append(codes)
    if optimum is not None:
        style.reference_line(axes, optimum, style.INK, "-")
        labels.append(
            style.Label(optimum, style.reference_text("optimum", f"({style.number(optimum, 3)})"), style.INK)
        )
    labels += _limits(axes, np.concatenate(every_mean), np.concatenate(every_high), random, optimum)
    _number_axis(axes, np.concatenate(every_code))
    notes = (subtitle, f"bars: {interval}" if interval else "")
    style.heading(figure, axes, title, " · ".join(filter(None, notes)))
    style.label_margin(axes, labels)
    return style.save_figure(figure, path)


def _limits(
    axes: Axes, means: np.ndarray, highs: np.ndarray, random: float | None, optimum: float | None
) -> list[style.Label]:
    top = float(max(highs.max(), -np.inf if optimum is None else optimum))
    floor = style.clipped_floor(means, means, top, random)
    axes.set_ylim(floor, top + 0.06 * (top - floor))
    if random is None:
        return []
    text = f"random policy ({style.number(random)})"
    if random < floor:
        return [style.below_axis(floor, f"below the axis:\n{text}")]
    style.reference_line(axes, random, style.MUTED, ":")
    return [style.Label(random, text, style.MUTED)]


def _number_axis(axes: Axes, codes: np.ndarray) -> None:
    ticks = np.unique(codes)
    axes.set_xscale("log", base=2)
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(ticks.tolist()))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("number of codes N in the codebook")
    axes.set_ylabel("final return (higher is better)")
