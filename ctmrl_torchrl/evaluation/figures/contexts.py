"""A map of task contexts and codes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_context_map"]


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
    a second panel on the left is colored by the closest code (cosine similarity) and shows the codes as
    numbered stars in the same projection.

    Args:
        contexts: ``[n, d]`` task contexts, one or more per task.
        task_parameters: ``[n, p]``; two parameters are shown as an angle (goal or wind direction), of more
            parameters, the one that the map position predicts best (R² of a linear fit, shown at the color bar).
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
    limits = _limits(points, stars, np.unique(index))
    both = len(stars) > 0
    figure = style.new_figure(11.2 if both else 6.6, 5.6)
    right = figure.add_axes((0.515, 0.19, 0.385, 0.61) if both else (0.12, 0.19, 0.70, 0.61))
    first, hidden = right, []
    if both:
        first = figure.add_axes((0.07, 0.19, 0.385, 0.61))
        colours = style.code_colours(len(stars))
        _scatter(first, points, test, c=[colours[code] for code in index])
        hidden = _stars(first, stars, colours, limits)
        first.set_title("Color: closest code")
    values, label, cmap, (low, high) = _parameter(parameters, parameter_names, points)
    drawn = _scatter(right, points, test, c=values, cmap=cmap, vmin=low, vmax=high)
    right.set_title("Color: task parameter")
    bar = figure.colorbar(
        drawn, cax=figure.add_axes((0.915, 0.19, 0.016, 0.61) if both else (0.85, 0.19, 0.027, 0.61))
    )
    bar.set_label(label)
    bar.outline.set_visible(False)
    shares = 100 * pca.explained_variance_ratio_
    for axes in {first, right}:
        axes.set_xlim(limits[0])
        axes.set_ylim(limits[1])
        axes.set_xlabel(f"1st principal component ({shares[0]:.0f} % of the variance)")
    first.set_ylabel(f"2nd principal component ({shares[1]:.0f} %)")
    right.tick_params(labelleft=first is right)
    _legend(first, bool(test.any()), hidden, codes=both)
    chosen = "Task contexts and the codes that group them" if both else "Task contexts"
    style.heading(figure, first, title or chosen, subtitle or "")
    return style.save_figure(figure, path)


def _closest(contexts: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Index of the code of the highest cosine similarity, ``[n]``."""
    directions = codes / np.maximum(np.linalg.norm(codes, axis=1, keepdims=True), 1e-12)
    return (contexts @ directions.T).argmax(1)


def _limits(points: np.ndarray, stars: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Axis limits for the contexts and the used codes; codes without contexts may lie outside."""
    shown = np.concatenate([points, stars[used]])
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


def _stars(axes: Axes, stars: np.ndarray, colours: list[str], limits: np.ndarray) -> list[int]:
    """Draw the codes and return those outside the limits."""
    hidden = []
    halo = [patheffects.withStroke(linewidth=2.6, foreground="white")]
    for code, (star, colour) in enumerate(zip(stars, colours, strict=True)):
        if (star < limits[:, 0]).any() or (star > limits[:, 1]).any():
            hidden.append(code)
            continue
        axes.scatter(
            *star,
            marker="*",
            s=330 if len(stars) <= 8 else 230,
            c=[colour],
            edgecolors=style.INK,
            linewidths=1.2,
            zorder=5,
        )
        axes.annotate(
            str(code),
            star,
            xytext=(9, 8),
            textcoords="offset points",
            fontsize=11,
            fontweight="bold",
            path_effects=halo,
            zorder=6,
        )
    return hidden


def _parameter(
    parameters: np.ndarray, names: Sequence[str] | None, points: np.ndarray
) -> tuple[np.ndarray, str, str, tuple[float, float]]:
    """Value of each row, its name, the color map and its limits."""
    if parameters.shape[1] != 2:
        explained = _explained(parameters, points)
        chosen = int(explained.argmax())
        values, label = parameters[:, chosen], names[chosen] if names else "task parameter"
        if len(explained) > 1:
            label += f" (R\u00b2 {explained[chosen]:.2f}, the highest of {len(explained)})"
        return values, label, "viridis", (values.min(), values.max())
    degrees = np.rad2deg(np.arctan2(parameters[:, 1], parameters[:, 0]))
    family = names[0].split("_")[0] if names else "task parameter"
    label = f"{family} direction (degrees)"
    if degrees.min() >= -1e-4:
        return degrees, label, "viridis", (degrees.min(), degrees.max())
    return degrees, label, "twilight", (-180.0, 180.0)  # a cyclic color map for directions


def _explained(parameters: np.ndarray, points: np.ndarray) -> np.ndarray:
    """R² of each parameter as a linear function of the map position."""
    centred = parameters - parameters.mean(0)
    places = points - points.mean(0)
    residuals = centred - places @ np.linalg.lstsq(places, centred, rcond=None)[0]
    return 1 - (residuals**2).sum(0) / np.maximum((centred**2).sum(0), np.finfo(float).tiny)


def _legend(axes: Axes, any_test: bool, hidden: list[int], *, codes: bool) -> None:
    def mark(marker: str, size: float, edge: str) -> Line2D:
        return Line2D(
            [], [], color="#9A9A9A", marker=marker, markersize=size, markeredgecolor=edge, linestyle="none"
        )

    handles, texts = (
        [mark("o", 8, "#8A8A8A")],
        ["context of a training task" if any_test else "context of a task"],
    )
    if any_test:
        handles.append(mark("^", 8, style.INK))
        texts.append("context of an unseen test task")
    if codes:
        handles.append(mark("*", 16, style.INK))
        texts.append("code (numbered)")
    if hidden:
        handles.append(Line2D([], [], linestyle="none"))
        texts.append(
            f"outside the map: code(s) {', '.join(map(str, hidden[:8]))}{', ...' if len(hidden) > 8 else ''}"
        )
    axes.legend(
        handles,
        texts,
        loc="upper left",
        bbox_to_anchor=(-0.03, -0.15),
        ncols=len(handles),
        frameon=False,
        fontsize=10,
        columnspacing=1.6,
        handletextpad=0.4,
    )
