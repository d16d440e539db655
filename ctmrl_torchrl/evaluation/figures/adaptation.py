"""Return versus the number of adaptation episodes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_adaptation"]

Curve = tuple[np.ndarray, np.ndarray, np.ndarray]


@style.styled
def plot_adaptation(
    returns: Mapping[str, Mapping[str, Any]],
    random: float | None,
    optimum: float | None,
    paper: float | None,
    path: str | Path,
    *,
    title: str = "Return while adapting to unseen tasks",
    subtitle: str | None = None,
    interval: str = "95 % interval over tasks",
    best_name: str = "optimum",
    random_episodes: int | None = None,
) -> Path:
    """Plot adaptation curves of all protocols with the random policy and the optimum.

    A protocol with a single value is drawn as a horizontal line. The axis does not extend to the random policy
    or to random exploration episodes; a note gives their values.

    Args:
        returns: ``{protocol: {"mean": [E], "low": [E], "high": [E]}}`` (``low``/``high`` may be missing);
            arrays, tensors or a nested TensorDict. Entry ``k`` was measured
            after ``k`` collected episodes.
        random: return of the random policy, or ``None`` if unknown.
        optimum: best possible return, or ``None``.
        paper: the paper's final return, or ``None``.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line (environment, method, number of tasks).
        interval: meaning of ``low`` and ``high``, which are drawn for the last episode; empty if there are none.
        best_name: name of the best return: "optimum", "oracle" or "behavior".
        random_episodes: number of random episodes of ``np``; marked on the axis.

    Raises:
        ValueError: if there is no protocol or its arrays differ in length.
    """
    curves = {name: _curve(name, entry) for name, entry in returns.items()}
    if not curves:
        raise ValueError("returns contains no protocol; expected at least one, such as 'np'.")
    figure = style.new_figure(9.2, 5.2)
    axes = figure.add_axes((0.09, 0.12, 0.64, 0.715))
    episodes = max(max(mean.size for mean, _, _ in curves.values()), 2)
    looks, labels = style.protocol_looks(curves), []
    for name, (mean, _, _) in curves.items():
        several = 1 < mean.size <= 30
        if mean.size == 1:  # no adaptation episodes of its own: the same level everywhere
            mean = np.repeat(mean, episodes)
        axes.plot(mean, **looks[name]._asdict(), marker="o" if several else None, markersize=4.5)
        value = f"({style.number(mean[-1])})"
        labels.append(style.Label(mean[-1], style.protocol_text(name, value), looks[name].color))
    for value, text, colour, dash in (
        (optimum, best_name, style.INK, "-"),
        (paper, "published result of CTMRL", style.MUTED, (0, (4, 3))),
    ):
        if value is not None:
            style.reference_line(axes, value, colour, dash)
            text = style.reference_text(text, f"({style.number(value, 3 if text == best_name else 2)})")
            labels.append(style.Label(value, text, colour))
    labels += _limits(axes, curves, random, [value for value in (optimum, paper) if value is not None])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ticks = axes.get_xticks()
    axes.set_xticks(ticks[(ticks >= 0) & (ticks <= episodes - 1)])
    shown = {name: curve for name, curve in curves.items() if (curve[2] > curve[1]).any()} if interval else {}
    end = _intervals(axes, shown, looks, episodes)
    axes.set_xlim(-0.02 * episodes, end)
    if random_episodes is not None:
        axes.axvline(random_episodes, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1.5)
        axes.text(
            random_episodes, 1.01, "np: random episodes end", transform=axes.get_xaxis_transform(),
            fontsize=9, color=style.MUTED, va="bottom", ha="center",
        )  # fmt: skip
    axes.set_xlabel("episodes collected in the new task before the one that is measured")
    axes.set_ylabel("return of one episode (higher is better)")
    notes = (subtitle, f"bars at the right: {interval}, last episode" if shown else "")
    style.make_room(axes, labels)
    style.heading(figure, axes, title, " · ".join(filter(None, notes)))
    style.label_margin(axes, labels)
    return style.save_figure(figure, path)


def _intervals(
    axes: Axes, curves: Mapping[str, Curve], looks: Mapping[str, style.Look], episodes: int
) -> float:
    """Draw the interval of the last episode of each curve, side by side; return the right end of the axis.

    Shaded bands along the curves would hide each other.
    """
    right, step = 1.02 * episodes - 1, 0.026 * episodes
    if not curves:
        return right
    for place, (name, (mean, low, high)) in enumerate(curves.items(), 1):
        color = looks[name].color
        axes.vlines(right + place * step, low[-1], high[-1], color=color, linewidth=3.2, alpha=0.55)
        axes.plot(right + place * step, mean[-1], color=color, marker="_", markersize=9, markeredgewidth=2)
    end = right + (len(curves) + 1) * step
    axes.axvspan(right, end, color="#F3F3F3", zorder=0.5, linewidth=0)
    return end


def _limits(
    axes: Axes, curves: Mapping[str, Curve], random: float | None, references: list[float]
) -> list[style.Label]:
    """Set the axis limits and return the labels of the random policy and of values below the axis."""
    means = np.concatenate([mean for mean, _, _ in curves.values()])
    finals = np.array([[mean[-1], low[-1]] for mean, low, _ in curves.values()]).reshape(-1)
    top = max([float(max(mean.max(), high[-1])) for mean, _, high in curves.values()] + references)
    floor = style.clipped_floor(means, np.concatenate([finals, references]), top, random)
    axes.set_ylim(floor, top + 0.06 * (top - floor))
    labels = []
    if random is not None and random >= floor:
        style.reference_line(axes, random, style.MUTED, ":")
        labels.append(style.Label(random, f"random policy ({style.number(random)})", style.MUTED))
    elif random is not None:
        labels.append(style.below_axis(floor, f"below the axis:\nrandom policy ({style.number(random)})"))
    below = {name: mean.min() for name, (mean, _, _) in curves.items() if mean.min() < floor}
    if below:
        lowest = style.number(min(below.values()))
        text = f"below the axis: first episodes\nof {len(below)} protocols (from {lowest})"
        labels.append(style.below_axis(floor, text))
    return labels


def _curve(name: str, entry: Mapping[str, Any]) -> Curve:
    mean = style.to_array(entry["mean"], f"returns[{name!r}]['mean']").reshape(-1)
    ends = []
    for key in ("low", "high"):
        values = entry.get(key, None)
        end = mean if values is None else style.to_array(values, f"returns[{name!r}][{key!r}]").reshape(-1)
        if end.size != mean.size or mean.size == 0:
            raise ValueError(
                f"returns[{name!r}][{key!r}] has {end.size} values, but 'mean' has {mean.size}; "
                "expected one per episode, at least one."
            )
        ends.append(end)
    return mean, ends[0], ends[1]
