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
        interval: meaning of the shaded bands; empty if there are none.
        best_name: name of the best possible return, such as "oracle" if it was only measured.
        random_episodes: number of random episodes of ``np``; marked on the axis.

    Raises:
        ValueError: if there is no protocol or its arrays differ in length.
    """
    curves = {name: _curve(name, entry) for name, entry in returns.items()}
    if not curves:
        raise ValueError("returns contains no protocol; expected at least one, such as 'np'.")
    figure = style.new_figure(9.2, 5.2)
    axes = figure.add_axes((0.1, 0.12, 0.63, 0.72))
    episodes = max(max(mean.size for mean, _, _ in curves.values()), 2)
    labels = []
    for index, (name, (mean, low, high)) in enumerate(curves.items()):
        colour = style.protocol_colour(name, index)
        steps = np.arange(mean.size)
        if mean.size == 1:  # no adaptation episodes of its own: the same level everywhere
            steps, mean, low, high = (
                np.array([0, episodes - 1]),
                *(np.repeat(end, 2) for end in (mean, low, high)),
            )
            axes.plot(steps, mean, color=colour, linestyle=(0, (5, 2)))
        else:
            axes.plot(steps, mean, color=colour, marker="o", markersize=4.5 if mean.size <= 30 else 0)
        axes.fill_between(steps, low, high, color=colour, alpha=0.16, linewidth=0)
        labels.append(
            style.Label(mean[-1], f"{style.protocol_text(name)}  ({style.number(mean[-1])})", colour)
        )
    for value, text, colour, dash in (
        (optimum, f"{best_name}  ({style.number(optimum or 0.0, 3)})", style.INK, "-"),
        (paper, f"CTMRL paper  ({style.number(paper or 0.0)})", style.MUTED, (0, (4, 3))),
    ):
        if value is not None:
            style.reference_line(axes, value, colour, dash)
            labels.append(style.Label(value, text, colour))
    labels += _limits(axes, curves, random, [value for value in (optimum, paper) if value is not None])
    axes.set_xlim(-0.02 * episodes, 1.02 * episodes - 1)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if random_episodes is not None:
        axes.axvline(random_episodes, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=1.2, zorder=1.5)
        axes.text(
            random_episodes, 0.015, " np: random episodes end", transform=axes.get_xaxis_transform(),
            fontsize=9, color=style.MUTED, va="bottom", ha="left",
        )  # fmt: skip
    axes.set_xlabel("episodes collected in the new task before the one that is measured")
    axes.set_ylabel("return of one episode (higher is better)")
    notes = (subtitle, f"shaded: {interval}" if interval else "")
    style.heading(figure, axes, title, " · ".join(filter(None, notes)))
    style.label_margin(axes, labels)
    return style.save_figure(figure, path)


def _limits(
    axes: Axes, curves: Mapping[str, Curve], random: float | None, references: list[float]
) -> list[style.Label]:
    """Set the axis limits and return the labels of the random policy and of values below the axis."""
    means = np.concatenate([mean for mean, _, _ in curves.values()])
    finals = np.array([[mean[-1], low[-1]] for mean, low, _ in curves.values()]).reshape(-1)
    top = max([float(high.max()) for _, _, high in curves.values()] + references)
    floor = style.clipped_floor(means, np.concatenate([finals, references]), top, random)
    axes.set_ylim(floor, top + 0.06 * (top - floor))
    labels = []
    if random is not None and random >= floor:
        style.reference_line(axes, random, style.MUTED, ":")
        labels.append(style.Label(random, f"random policy  ({style.number(random)})", style.MUTED))
    elif random is not None:
        labels.append(style.below_axis(floor, f"below the axis:\nrandom policy  ({style.number(random)})"))
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
