"""Training curves as arrays, from ``metrics.csv`` or a mapping."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["Series", "read_metrics", "series_of", "total"]

#: ``{name: (steps, values)}``
Series = dict[str, tuple[np.ndarray, np.ndarray]]


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


def series_of(metrics: str | Path | Mapping[str, Any]) -> Series:
    """The series of a file, or of a mapping of ``(steps, values)`` or ``[(step, value), ...]``."""
    if isinstance(metrics, (str, Path)):
        series = read_metrics(metrics)
    else:
        series = {name: _one(name, values) for name, values in metrics.items()}
    return {name: pair for name, pair in series.items() if pair[0].size}


def total(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The sum of several series at every step at which one of them was logged.

    Examples:
        >>> steps, values = total([(np.array([0, 1]), np.array([1.0, 2.0])), (np.array([1]), np.array([5.0]))])
        >>> steps.tolist(), values.tolist()
        ([0, 1], [1.0, 7.0])
    """
    parts = list(parts)
    steps, places = np.unique(np.concatenate([steps for steps, _ in parts]), return_inverse=True)
    return steps, np.bincount(places, np.concatenate([values for _, values in parts]))


def _one(name: str, values: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(values, tuple) and len(values) == 2 and np.ndim(values[0]) == 1:
        steps, values = (style.to_array(part, f"metrics[{name!r}]", 1) for part in values)
        if steps.size != values.size:
            raise ValueError(f"metrics[{name!r}] has {steps.size} steps but {values.size} values.")
        values = np.stack([steps, values], 1)
    return _series(name, values)


def _series(name: str, pairs: Any) -> tuple[np.ndarray, np.ndarray]:
    array = style.to_array(pairs, f"metrics[{name!r}]").reshape(-1, 2)
    array = array[np.isfinite(array).all(1)]
    array = array[np.argsort(array[:, 0], kind="stable")]
    return array[:, 0], array[:, 1]
