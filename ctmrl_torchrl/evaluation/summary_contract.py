"""The contract of ``summary.json``: plain JSON, finite numbers and all required fields."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["SummaryError", "as_mapping", "is_number", "to_plain", "validate_summary"]

_TEXT = ("env", "method", "policy_loss", "preset")
_FIELDS = (
    *_TEXT,
    "seed",
    "updates",
    "wall_time_s",
    "versions",
    "dataset",
    "returns",
    "reference",
)
_SPLITS = ("test", "train")


class SummaryError(ValueError):
    """A summary violates the contract; the message contains the field."""


def to_plain(value: Any, field: str = "") -> Any:
    """Convert ``value`` to plain JSON: tensors, arrays and tuples become lists, keys and paths become strings.

    Args:
        value: any nesting of mappings, sequences, tensors, NumPy values and paths.
        field: dotted name of ``value``, for the errors.

    Raises:
        SummaryError: with the field that is not finite or cannot be written as JSON.

    Example:
        >>> to_plain({"per_task": {3: np.float32(0.5)}, "ci95": (0, 1)})
        {'per_task': {'3': 0.5}, 'ci95': [0, 1]}
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise SummaryError(f"summary.json must contain only finite numbers, but {field} is {value}.")
        return float(value)
    if isinstance(value, Mapping):
        keys = [str(key) for key in value]
        if len(set(keys)) < len(keys):
            raise SummaryError(f"{field or 'summary.json'} has two keys of the same text: {sorted(keys)}.")
        return {str(key): to_plain(item, f"{field}.{key}".lstrip(".")) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item, f"{field}[{index}]") for index, item in enumerate(value)]
    raise SummaryError(f"{field} is a {type(value).__name__}, which is not plain JSON.")


def validate_summary(summary: Mapping[str, Any]) -> None:
    """Check a summary against the contract; additional fields are allowed anywhere.

    Raises:
        SummaryError: with the first field that is missing, of a wrong type, not finite or inconsistent
            (``mean`` is the mean of ``per_task``, ``ci95`` is in order, task ids are integers).
    """
    missing = [field for field in _FIELDS if field not in summary]
    if missing:
        raise SummaryError(f"summary.json lacks the field(s) {missing}.")
    to_plain(summary, "")
    for field in _TEXT:
        if not isinstance(summary[field], str) or not summary[field]:
            raise SummaryError(f"{field} must be a text, got {summary[field]!r}.")
    for field in ("seed", "updates"):
        if not isinstance(summary[field], int) or isinstance(summary[field], bool):
            raise SummaryError(f"{field} must be an integer, got {summary[field]!r}.")
    if not is_number(summary["wall_time_s"]) or summary["wall_time_s"] < 0:
        raise SummaryError(f"wall_time_s must be a number of seconds, got {summary['wall_time_s']!r}.")
    sections = {
        name: as_mapping(summary[name], name) for name in ("versions", "dataset", "returns", "reference")
    }
    if not sections["returns"] or set(sections["returns"]) - set(_SPLITS):
        raise SummaryError(
            f"returns must hold the splits 'test' and/or 'train', got {sorted(sections['returns'])}."
        )
    for split, protocols in sections["returns"].items():
        for protocol, result in as_mapping(protocols, f"returns.{split}").items():
            _check_result(result, f"returns.{split}.{protocol}")
    as_mapping(sections["reference"].get("paper"), "reference.paper")
    best = "oracle" if "oracle" in sections["reference"] else "optimum"
    for name in ("random", best):
        if name not in sections["reference"]:
            raise SummaryError(f"reference lacks {name!r}.")
        value = sections["reference"][name]
        if value is not None and not is_number(value):
            raise SummaryError(f"reference.{name} must be a number or null, got {value!r}.")


def _check_result(result: Any, field: str) -> None:
    result = as_mapping(result, field)
    missing = [name for name in ("mean", "ci95", "per_task", "per_episode") if name not in result]
    if missing:
        raise SummaryError(f"{field} lacks {missing}.")
    mean, interval, episodes = result["mean"], result["ci95"], result["per_episode"]
    if not is_number(mean):
        raise SummaryError(f"{field}.mean must be a number, got {mean!r}.")
    if not _are_numbers(interval) or len(interval) != 2 or interval[0] > interval[1]:
        raise SummaryError(f"{field}.ci95 must be [low, high], got {interval!r}.")
    if not _are_numbers(episodes) or not episodes:
        raise SummaryError(
            f"{field}.per_episode must be a list of numbers, one per episode, got {episodes!r}."
        )
    per_task = as_mapping(result["per_task"], f"{field}.per_task")
    if (
        not per_task
        or not all(key.isdecimal() for key in per_task)
        or not _are_numbers(list(per_task.values()))
    ):
        raise SummaryError(f"{field}.per_task must map task ids to numbers, got {per_task!r}.")
    over_tasks = sum(per_task.values()) / len(per_task)
    if not math.isclose(mean, over_tasks, rel_tol=1e-3, abs_tol=1e-3):
        raise SummaryError(f"{field}.mean is {mean}, but the mean of {field}.per_task is {over_tasks}.")


def as_mapping(value: Any, field: str) -> Mapping[str, Any]:
    """Return ``value`` if it is a mapping; otherwise raise a :class:`SummaryError` with the field."""
    if not isinstance(value, Mapping):
        raise SummaryError(f"{field} must be a mapping, got {value!r}.")
    return value


def is_number(value: Any) -> bool:
    """Whether ``value`` is a plain number (not a bool)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(is_number(item) for item in value)
