"""The contract of ``summary.json``: a JSON schema, and the checks that a schema cannot express."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["SummaryError", "as_mapping", "is_number", "summary_schema", "to_plain", "validate_summary"]


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


@functools.cache
def summary_schema() -> dict[str, Any]:
    """The published JSON schema of ``summary.json``, which is shipped with the package.

    Examples:
        >>> summary_schema()["required"][:2]
        ['env', 'method']
    """
    return json.loads(Path(__file__).with_name("summary.schema.json").read_text(encoding="utf-8"))


def validate_summary(summary: Mapping[str, Any]) -> None:
    """Check a summary against :func:`summary_schema`; additional fields are allowed at the top level.

    What a schema cannot express is checked as well: numbers are finite, ``ci95`` is in order, and ``mean`` is the
    mean of ``per_task``.

    Raises:
        SummaryError: with the first field that is missing, of a wrong type, not finite or inconsistent.
    """
    to_plain(summary, "")
    errors = sorted(_validator().iter_errors(summary), key=_order)
    if errors:
        raise SummaryError(_explained(errors[0]))
    for split, protocols in summary["returns"].items():
        for protocol, result in protocols.items():
            _check_consistency(result, f"returns.{split}.{protocol}")


@functools.cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator  # slow to import

    return Draft202012Validator(summary_schema())


def _order(error: Any) -> tuple[int, int, str]:
    """Missing fields first, then the outermost field."""
    return error.validator != "required", len(error.absolute_path), str(error.json_path)


def _explained(error: Any) -> str:
    """One sentence: the field, what was expected and what was found."""
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    field = field.lstrip(".")
    if error.validator == "required":
        missing = [name for name in error.validator_value if name not in error.instance]
        return f"{field} lacks {missing}." if field else f"summary.json lacks the field(s) {missing}."
    found = error.instance
    if isinstance(found, Mapping):
        found = f"a mapping with the keys {sorted(map(str, found))}"
    else:
        found = f"{type(found).__name__} {str(found)[:80]!r}" if isinstance(found, list) else repr(found)[:80]
    return f"{field or 'summary.json'} must be {error.schema.get('description', error.message)}, got {found}."


def _check_consistency(result: Mapping[str, Any], field: str) -> None:
    mean, (low, high), per_task = result["mean"], result["ci95"], result["per_task"]
    if low > high:
        raise SummaryError(f"{field}.ci95 must be [low, high], two numbers in order, got {[low, high]}.")
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
