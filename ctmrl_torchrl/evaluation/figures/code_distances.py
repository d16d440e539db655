"""The distances between the codes of a codebook, and how many tasks use each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from ctmrl_torchrl.evaluation.figures import style
from ctmrl_torchrl.evaluation.figures.colors import contrast

__all__ = ["order_codes", "plot_code_distances"]

_SIDE = 4.6  # inches of the matrix
_MOST_NUMBERS = 16
_MOST_TICKS = 32


@style.styled
def plot_code_distances(
    distances: Any,
    usage: Any,
    path: str | Path,
    *,
    title: str = "Distances between the codes, similar codes side by side",
    subtitle: str | None = None,
    used_by: str = "training tasks",
) -> Path:
    """Plot the matrix of distances between the codes, with the usage of each code beside its row.

    Rows and columns are in the order of :func:`order_codes`, so that groups of similar codes are dark blocks on
    the diagonal. With at most sixteen codes, the cells contain the distances.

    Args:
        distances: ``[N, N]``, symmetric with zeros on the diagonal, such as of
            :func:`~ctmrl_torchrl.modules.codebook.code_distances`.
        usage: ``[N]``, the number of contexts that match each code, or None if it is not known.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line.
        used_by: what ``usage`` counts.

    Raises:
        ValueError: if shapes do not match, or the distances are not those of a metric.
    """
    matrix = _checked(distances)
    counts = None if usage is None else style.to_array(usage, "usage", 1)
    if counts is not None and counts.size != len(matrix):
        raise ValueError(f"usage has {counts.size} entries for {len(matrix)} codes.")
    order = order_codes(matrix)
    sorted_matrix = matrix[np.ix_(order, order)]
    beside = 0.0 if counts is None else 1.75
    width, height = 0.85 + _SIDE + beside + 1.45, _SIDE + 1.6
    figure = style.new_figure(width, height)

    def add_axes(left: float, across: float) -> Axes:
        return figure.add_axes((left / width, 0.68 / height, across / width, _SIDE / height))

    axes = add_axes(0.85, _SIDE)
    image = axes.imshow(sorted_matrix, cmap="viridis", vmin=0.0, vmax=matrix.max() or 1.0)
    _number_codes(axes, order)
    if len(order) <= _MOST_NUMBERS:
        _write_numbers(figure, axes, image, sorted_matrix)
    if counts is not None:
        _draw_usage(add_axes(0.85 + _SIDE + 0.12, beside - 0.32), counts[order], used_by)
    bar = figure.colorbar(image, cax=add_axes(0.85 + _SIDE + beside + 0.3, 0.18))
    bar.set_label("Euclidean distance between two codes")
    bar.outline.set_visible(False)
    style.heading(figure, axes, title, subtitle or "")
    return style.save_figure(figure, path)


def order_codes(distances: Any) -> list[int]:
    """An order of the codes in which similar ones are side by side.

    It is SciPy's optimal order of the leaves of an average-linkage clustering (Bar-Joseph et al., 2001), which
    keeps groups together and the sum of distances between neighbors small.

    Args:
        distances: ``[N, N]``, symmetric with zeros on the diagonal.

    Examples:
        >>> order_codes([[0, 9, 1], [9, 0, 8], [1, 8, 0]]) in ([0, 2, 1], [1, 2, 0])
        True
    """
    matrix = _checked(distances)
    if len(matrix) < 3:
        return list(range(len(matrix)))
    from scipy.cluster.hierarchy import leaves_list, linkage  # slow to import
    from scipy.spatial.distance import squareform

    condensed = squareform(matrix, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=True)).tolist()


def _checked(distances: Any) -> np.ndarray:
    matrix = style.to_array(distances, "distances", 2)
    if matrix.shape[0] != matrix.shape[1] or not matrix.size:
        raise ValueError(f"distances must have the shape [N, N], got {list(matrix.shape)}.")
    if not np.allclose(matrix, matrix.T) or np.diag(matrix).any() or not (matrix >= 0).all():
        raise ValueError("distances must be symmetric and not negative, with zeros on the diagonal.")
    return matrix


def _number_codes(axes: Axes, order: list[int]) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    places = np.arange(0, len(order), math.ceil(len(order) / _MOST_TICKS))
    size = min(10.0, 0.62 * 72 * _SIDE / len(places))
    texts = [str(order[place]) for place in places]
    axes.set_xticks(places, texts, fontsize=size, rotation=90 if len(places) > 20 else 0)
    axes.set_yticks(places, texts, fontsize=size)
    axes.tick_params(length=0)
    axes.set_xlabel("number of the code")
    axes.set_ylabel("number of the code")


def _write_numbers(figure: Figure, axes: Axes, image: AxesImage, matrix: np.ndarray) -> None:
    """Write the distances to two digits, as large as the cells allow, in black or white."""
    largest = matrix.max()
    digits = int(np.clip(1 - math.floor(math.log10(largest)), 0, 4)) if largest > 0 else 0
    texts = [["0" if x == y else style.number(value, digits) for x, value in enumerate(row)]
             for y, row in enumerate(matrix)]  # fmt: skip
    widest = style.text_width(figure, (text for row in texts for text in row), 10.0)
    size = min(10.0, 10.0 * 0.86 * _SIDE / len(matrix) / widest)
    for y, row in enumerate(texts):
        for x, text in enumerate(row):
            shade = to_hex(cast(Any, image.cmap(image.norm(matrix[y, x]))))
            color = max(("white", "black"), key=lambda ink: contrast(ink, shade))
            axes.text(x, y, text, fontsize=size, color=color, ha="center", va="center")


def _draw_usage(axes: Axes, counts: np.ndarray, used_by: str) -> None:
    """A bar beside each row."""
    axes.barh(np.arange(len(counts)), counts, height=0.72, color=style.PALETTE[0])
    axes.set_ylim(len(counts) - 0.5, -0.5)
    axes.set_xlim(0, max(counts.max(), 1.0) * 1.05)
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=0)
    axes.tick_params(axis="y", labelleft=False)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.set_xlabel(used_by)
