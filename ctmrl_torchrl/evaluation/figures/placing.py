"""Positions for short labels next to their markers, without overlapping markers or other labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["place_labels"]

_DISTANCES = (15.0, 19.0, 24.0, 30.0, 37.0, 45.0, 54.0, 64.0)  # points from marker to label
_DIRECTIONS = 24
_STAR, _MARKER = 10.0, 4.5  # radius in points of a labeled marker and of the others
_LINE = 20.0  # labels farther away than this get a line to their marker


def place_labels(
    axes: Axes, texts: Sequence[str], marks: np.ndarray, others: np.ndarray, size: float = 11.0
) -> None:
    """Write a label near each mark, where it covers neither markers nor other labels, and inside the axes.

    If no such position exists, the label is placed where the overlap is smallest. Call this function after the
    axis limits are final.

    Args:
        axes: axes with the markers.
        texts: one short label per mark.
        marks: ``[n, 2]`` places of the labeled markers.
        others: ``[m, 2]`` places of other markers.
        size: size of the font.
    """
    scale = 72 / axes.figure.dpi
    placed = axes.transData.transform(marks) * scale
    obstacles = np.concatenate([placed, axes.transData.transform(others).reshape(-1, 2) * scale])
    radii = np.concatenate([np.full(len(placed), _STAR), np.full(len(others), _MARKER)])
    low, high = axes.get_window_extent().get_points() * scale
    angles = 2 * np.pi * (np.arange(_DIRECTIONS) / _DIRECTIONS) + np.pi / 4
    ring = np.stack([np.cos(angles), np.sin(angles)], 1)
    offsets = (np.array(_DISTANCES)[:, None, None] * ring).reshape(-1, 2)
    boxes, lines = np.empty((0, 4)), np.empty((0, 2, 2))
    for text, mark in zip(texts, placed, strict=True):
        half = np.array([0.36 * len(text), 0.45]) * size + 1.0
        centers = mark + offsets
        candidates = np.stack([np.broadcast_to(mark, centers.shape), centers], 1)
        drawn = np.hypot(*offsets.T) > _LINE
        cost = _covered(centers, half, obstacles, radii) + 3.0 * _overlaps(centers, half, boxes)
        cost += 3.0 * _run_through(lines, np.concatenate([centers, np.tile(half, (len(centers), 1))], 1)).sum(
            0
        )
        cost += drawn * (3.0 * _run_through(candidates, boxes).sum(1) + 0.5 * _crossings(candidates, lines))
        cost += 100.0 * ((centers - half < low) | (centers + half > high)).any(1)
        chosen = int((cost + 1e-3 * np.arange(len(cost))).argmin())
        boxes = np.concatenate([boxes, [[*centers[chosen], *half]]])
        if drawn[chosen]:
            lines = np.concatenate([lines, candidates[chosen, None]])
        _write(axes, text, (mark / scale, offsets[chosen]), size)


def _covered(centers: np.ndarray, half: np.ndarray, obstacles: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """How many markers a label at each center would touch."""
    outside = np.maximum(np.abs(centers[:, None] - obstacles) - half, 0.0)
    return (np.hypot(*np.moveaxis(outside, -1, 0)) < radii).sum(1)


def _overlaps(centers: np.ndarray, half: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """How many of the other labels a label at each center would touch."""
    apart = np.abs(centers[:, None] - boxes[None, :, :2]) >= half + boxes[None, :, 2:]
    return (~apart.any(-1)).sum(1)


def _run_through(lines: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Whether each line ``[l, 2, 2]`` runs through each box ``[b, 4]`` (center and half size), ``[l, b]``."""
    along = np.linspace(0.0, 1.0, 25)[:, None]
    points = lines[:, None, 0] * (1 - along) + lines[:, None, 1] * along  # [l, 25, 2]
    inside = np.abs(points[:, :, None] - boxes[None, None, :, :2]) < boxes[None, None, :, 2:] + 1.0
    return np.any(np.all(inside, axis=-1), axis=1)


def _crossings(candidates: np.ndarray, lines: np.ndarray) -> np.ndarray:
    """How many of the lines each candidate line would cross."""

    def side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
        (ax, ay), (bx, by) = (np.moveaxis(vector, -1, 0) for vector in (end - start, point - start))
        return ax * by - ay * bx

    a, b = candidates[:, None, 0], candidates[:, None, 1]
    c, d = lines[None, :, 0], lines[None, :, 1]
    return ((side(a, b, c) * side(a, b, d) < 0) & (side(c, d, a) * side(c, d, b) < 0)).sum(1)


def _write(axes: Axes, text: str, place: tuple[np.ndarray, np.ndarray], size: float) -> None:
    """The label and, if it is far from its marker, a line that ends in a dot on the marker's center."""
    mark, offset = place
    far = np.hypot(*offset) > _LINE
    at = tuple(axes.transData.inverted().transform(mark))
    line = {"arrowstyle": "-", "color": style.INK, "linewidth": 0.8, "shrinkA": 1.0, "shrinkB": 0.0}
    axes.annotate(
        text,
        at,
        xytext=tuple(offset),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=size,
        fontweight="bold",
        zorder=7,
        arrowprops=line if far else None,
    )
    if far:
        axes.scatter(*at, s=9, c=style.INK, linewidths=0, zorder=7)
