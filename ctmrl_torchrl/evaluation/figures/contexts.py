"""A map of task contexts and codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ctmrl_torchrl.evaluation.figures import style
from ctmrl_torchrl.evaluation.figures.placing import place_labels

__all__ = ["plot_context_map"]

_UNUSED = "#6E6E6E"


@style.styled
def plot_context_map(
    contexts: Any,
    task_parameters: Any,
    codes: Any,
    path: str | Path,
    *,
    is_test: Any = None,
    parameter_names: Sequence[str] | None = None,
    title: str | None = None,
    subtitle: str | None = None,
) -> Path:
    """Plot contexts in the plane of their first two principal components.

    Colors show the task parameter, so that one can see whether similar tasks have similar contexts. With codes,
    a second panel on the left is colored by the closest code (cosine similarity). In the same projection it
    shows codes that are closest to some context as numbered stars, and unused codes as gray crosses.

    Args:
        contexts: ``[n, d]`` task contexts, one or more per task.
        task_parameters: ``[n, p]``; the coordinates of a vector (names such as ``goal_x``, ``goal_y``) are shown
            as its direction, of other parameters, the one that the map position predicts best (R² of a linear
            fit, shown at the color bar).
        codes: ``[N, d]`` the codebook, or None for a method without one.
        path: PNG file to write.
        is_test: ``[n]`` bool, ``True`` for contexts of unseen test tasks (drawn as triangles).
        parameter_names: names of the parameters, for the color bar.
        title: title of the figure; None chooses one.
        subtitle: second, lighter line.

    Raises:
        ValueError: if shapes do not match.
    """
    contexts, parameters = (
        style.to_array(contexts, "contexts", 2),
        style.to_array(task_parameters, "task_parameters", 2),
    )
    stars_at = np.empty((0, contexts.shape[1])) if codes is None else style.to_array(codes, "codes", 2)
    count = contexts.shape[0]
    test = np.zeros(count, bool) if is_test is None else style.to_array(is_test, "is_test", 1).astype(bool)
    for name, array in (("task_parameters", parameters), ("is_test", test)):
        if array.shape[0] != count:
            raise ValueError(f"{name} has {array.shape[0]} rows, but there are {count} contexts.")
    if count < 3 or contexts.shape[1] < 2 or stars_at.shape[1] != contexts.shape[1]:
        raise ValueError(
            f"A map needs at least 3 contexts of at least 2 dimensions and codes of the same width, "
            f"got contexts {list(contexts.shape)} and codes {list(stars_at.shape)}."
        )
    index = _closest(contexts, stars_at) if len(stars_at) else np.zeros(0, int)
    from sklearn.decomposition import PCA  # slow to import

    pca = PCA(n_components=2).fit(contexts)
    points = pca.transform(contexts)
    stars = pca.transform(stars_at) if len(stars_at) else np.empty((0, 2))
    limits = _limits(points, stars[np.unique(index)])
    both = len(stars) > 0
    width, height = 11.6 if both else 7.0, 5.6
    figure = style.new_figure(width, height)

    def add_axes(left: float, across: float) -> Axes:
        return figure.add_axes((left / width, 1.06 / height, across / width, 3.42 / height))

    first = right = add_axes(5.75, 4.25) if both else add_axes(0.85, 4.6)
    values, label, cmap, (low, high) = _parameter(parameters, parameter_names, points)
    drawn = _scatter(right, points, test, c=values, cmap=cmap, vmin=low, vmax=high)
    right.set_title("Color: task parameter")
    bar = figure.colorbar(drawn, cax=add_axes(10.17 if both else 5.62, 0.18))
    bar.set_label(label)
    bar.outline.set_visible(False)
    unused = 0
    if both:
        first = add_axes(0.85, 4.25)
        first.set_title("Color: closest code")
    shares = 100 * pca.explained_variance_ratio_
    for axes in {first, right}:
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])
        axes.set_xlabel(f"1st principal component ({shares[0]:.0f} % of the variance)")
    first.set_ylabel(f"2nd principal component ({shares[1]:.0f} %)")
    right.tick_params(labelleft=first is right)
    if both:
        used, places = np.unique(index, return_inverse=True)
        colours = style.code_colours(len(used))
        _scatter(first, points, test, c=[colours[place] for place in places])
        unused = _codes(first, stars, used, colours, points, limits)
    _legend(
        first, bool(test.any()), codes=both, unused=unused, hidden=len(stars) - len(np.unique(index)) - unused
    )
    chosen = "Task contexts and the codes that group them" if both else "Task contexts"
    style.heading(figure, first, title or chosen, subtitle or "")
    return style.save_figure(figure, path)


def _closest(contexts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Index of the code of the highest cosine similarity, ``[n]``."""
    directions = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12)
    return (contexts @ directions.T).argmax(1)


def _limits(points: np.ndarray, stars: np.ndarray) -> np.ndarray:
    """Axis limits for the contexts and the codes in use; unused codes may lie outside."""
    shown = np.concatenate([points, stars])
    low, high = shown.min(0), shown.max(0)
    margin = 0.10 * np.maximum(high - low, 1e-6)
    return np.stack([low - margin, high + margin], 1)


def _scatter(axes: Axes, points: np.ndarray, test: np.ndarray, c: Any, **colour: Any) -> Any:
    size = 46 if len(points) <= 200 else 22
    drawn = None
    for rows, marker, edge in ((~test, "o", "#8A8A8A"), (test, "^", style.INK)):
        if rows.any():
            chosen = [shade for shade, row in zip(c, rows, strict=True) if row]
            drawn = axes.scatter(
                *points[rows].T,
                c=chosen,
                marker=marker,
                s=size * (1.25 if marker == "^" else 1),
                linewidths=0.6,
                edgecolors=edge,
                alpha=0.9,
                zorder=3,
                **colour,
            )
    return drawn


def _codes(
    axes: Axes,
    stars: np.ndarray,
    used: np.ndarray,
    colours: list[str],
    points: np.ndarray,
    limits: np.ndarray,
) -> int:
    """Draw codes in use as numbered stars and the others as crosses; return how many crosses are in view."""
    crosses = np.delete(stars, used, 0)
    crosses = crosses[((crosses > limits[:, 0]) & (crosses < limits[:, 1])).all(1)]
    axes.scatter(*crosses.T, marker="x", s=42, c=_UNUSED, linewidths=1.7, zorder=4)
    axes.scatter(
        *stars[used].T,
        marker="*",
        s=330 if len(used) <= 8 else 230,
        c=colours,
        edgecolors=style.INK,
        linewidths=1.2,
        zorder=5,
    )
    place_labels(axes, [str(code) for code in used], stars[used], np.concatenate([points, crosses]))
    return len(crosses)


def _parameter(
    parameters: np.ndarray, names: Sequence[str] | None, points: np.ndarray
) -> tuple[np.ndarray, str, str, tuple[float, float]]:
    """Value of each row, its name, the color map and its limits."""
    if parameters.shape[1] != 2 or not _is_vector(names):
        explained = _explained(parameters, points)
        chosen = int(explained.argmax())
        values, label = parameters[:, chosen], names[chosen].replace("_", " ") if names else "task parameter"
        if len(explained) > 1:
            label += f"\n(most visible of {len(explained)} parameters, R\u00b2 {explained[chosen]:.2f})"
        return values, label, "viridis", (values.min(), values.max())
    degrees = np.rad2deg(np.arctan2(parameters[:, 1], parameters[:, 0]))
    family = names[0].split("_")[0] if names else "task parameter"
    label = f"{family} direction (degrees)"
    if degrees.min() >= -1e-4:
        return degrees, label, "viridis", (degrees.min(), degrees.max())
    return degrees, label, "twilight", (-180.0, 180.0)  # a cyclic color map for directions


def _is_vector(names: Sequence[str] | None) -> bool:
    """Whether two parameters are the coordinates of a vector, which has a direction."""
    if names is None:
        return True
    stem = names[0].removesuffix("_x")
    return tuple(names) == (f"{stem}_x", f"{stem}_y")


def _explained(parameters: np.ndarray, points: np.ndarray) -> np.ndarray:
    """R² of each parameter as a linear function of the map position; 0 for one that does not differ."""
    centred = parameters - parameters.mean(0)
    places = points - points.mean(0)
    residuals = centred - places @ np.linalg.lstsq(places, centred, rcond=None)[0]
    explained = 1 - (residuals**2).sum(0) / np.maximum((centred**2).sum(0), np.finfo(float).tiny)
    return np.where(np.ptp(parameters, axis=0) > 0, explained, 0.0)


def _legend(axes: Axes, any_test: bool, *, codes: bool, unused: int, hidden: int) -> None:
    def mark(marker: str, size: float, edge: str, width: float = 1.0) -> Line2D:
        look = {"markeredgecolor": edge, "markeredgewidth": width, "linestyle": "none"}
        return Line2D([], [], color="#9A9A9A", marker=marker, markersize=size, **look)

    entries = [(mark("o", 8, "#8A8A8A"), "context of a training task" if any_test else "context of a task")]
    if any_test:
        entries.append((mark("^", 8, style.INK), "context of an unseen task"))
    if codes:
        entries.append((mark("*", 16, style.INK), "code in use (numbered)"))
    if unused or hidden:
        outside = f", {hidden} more outside" if hidden and unused else ", outside the map" if hidden else ""
        text = f"unused code ({unused or hidden}{outside})"
        entries.append((mark("x", 6.5, _UNUSED, 1.7), text))
    axes.legend(
        *zip(*entries, strict=True),
        loc="upper left",
        bbox_to_anchor=(-0.03, -0.15),
        ncols=len(entries),
        frameon=False,
        fontsize=10,
        columnspacing=1.6,
        handletextpad=0.4,
    )
