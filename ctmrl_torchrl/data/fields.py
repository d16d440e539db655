"""Checks of a manifest's fields."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.rules import is_number, is_whole

TASK_FIELDS = ("parameters", "parameter_names", "train_ids", "test_ids")
#: largest integer that can be stored: the largest int64
LARGEST_WHOLE = 2**63 - 1
#: longest episode that can be stored
LONGEST_HORIZON = 2**31 - 1
_DEEPEST = 50
_SHOWN = 80
_RETURNS = ("mean_return", "train_return", "test_return", "optimal_return")


def plain(value: Any, where: str, depth: int = 0) -> Any:
    """Convert ``value`` to types that JSON preserves: numbers, strings, lists and dictionaries.

    NumPy numbers, arrays and tensors become Python numbers and lists.

    Raises:
        DatasetError: with the field that JSON cannot store, or would change.

    Examples:
        >>> plain({"ids": (1, 2)}, "recipe")
        {'ids': [1, 2]}
        >>> plain({3: "x"}, "recipe")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.data.errors.DatasetError: manifest: recipe has the key 3 (int); keys must be strings
    """
    if depth > _DEEPEST:
        raise DatasetError(f"manifest: {where[:_SHOWN]}... is nested more than {_DEEPEST} levels deep")
    if hasattr(value, "tolist"):  # arrays, tensors and their scalars
        value = value.tolist()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST_WHOLE:
            raise DatasetError(f"manifest: {where} exceeds {LARGEST_WHOLE}, the largest storable integer")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise DatasetError(
                f"manifest: {where} is {value}, which JSON cannot store; use finite numbers or None"
            )
        return float(value)
    if isinstance(value, str):
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise DatasetError(f"manifest: {where} is {shown(value)}, which is not valid Unicode")
        return str(value)
    if isinstance(value, Mapping):
        wrong = next((key for key in value if not isinstance(key, str)), None)
        if wrong is not None:
            raise DatasetError(
                f"manifest: {where} has the key {shown(wrong)} ({type(wrong).__name__}); keys must be strings"
            )
        return {plain(key, where): plain(entry, f"{where}.{key}", depth + 1) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry, f"{where}[{i}]", depth + 1) for i, entry in enumerate(value)]
    raise DatasetError(
        f"manifest: {where} is {type(value).__name__} ({shown(value)}), which JSON cannot store; "
        "use numbers, strings, lists and dictionaries"
    )


def shown(value: Any) -> str:
    """A value for an error message, truncated if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python does not print integers of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_tasks(tasks: dict[str, Any]) -> None:
    """Check parameters, their names and the split.

    Raises:
        DatasetError: with the field and the task.
    """
    missing = [name for name in TASK_FIELDS if name not in tasks]
    if missing:
        raise DatasetError(
            f"manifest: tasks lacks {', '.join(missing)}; TaskSet.to_dict() returns all of them"
        )
    for name in TASK_FIELDS:
        if not isinstance(tasks[name], list):
            raise DatasetError(f"manifest: tasks.{name} must be a list, got {shown(tasks[name])}")
    rows, names = tasks["parameters"], tasks["parameter_names"]
    if not rows:
        raise DatasetError("manifest: tasks.parameters is empty, expected one list of numbers per task")
    for task, row in enumerate(rows):
        where = f"manifest: tasks.parameters of task {task} is {shown(row)}"
        if not isinstance(row, list) or not isinstance(rows[0], list) or len(row) != len(rows[0]):
            raise DatasetError(f"{where}, expected a list of the same length as for task 0")
        if not all(is_number(value) for value in row):
            raise DatasetError(f"{where}, expected finite numbers")
    if not all(isinstance(name, str) for name in names) or len(names) != len(rows[0]):
        raise DatasetError(
            f"manifest: tasks.parameter_names is {shown(names)}, expected {len(rows[0])} strings, one for each "
            "parameter of a task"
        )
    if len(set(names)) != len(names):
        raise DatasetError(f"manifest: tasks.parameter_names is {shown(names)}, which contains a name twice")
    split = [*tasks["train_ids"], *tasks["test_ids"]]
    fractions = [entry for entry in split if not is_whole(entry)]
    if fractions:
        raise DatasetError(
            f"manifest: tasks.train_ids/test_ids {shown(fractions)} are not integers; a task id is a row of "
            "tasks.parameters, counted from 0"
        )
    outside = [entry for entry in split if not 0 <= entry < len(rows)]
    if outside:
        raise DatasetError(
            f"manifest: tasks.train_ids/test_ids {shown(outside)} are outside 0..{len(rows) - 1}"
        )
    if len(set(split)) != len(split):
        raise DatasetError("manifest: tasks.train_ids and test_ids overlap or contain a task twice")


def check_snapshots(snapshots: list[Any], n_tasks: int) -> None:
    """Check the ids of the snapshots and the entries that reports use.

    Raises:
        DatasetError: with the entry and the field.
    """
    ids: list[Any] = [entry.get("id") if isinstance(entry, dict) else None for entry in snapshots]
    if any(not is_whole(each) or each < 0 for each in ids) or len(set(ids)) != len(ids):
        raise DatasetError(
            'manifest: every entry of snapshots must be a dictionary with a unique integer "id" of at least 0'
        )
    for i, entry in enumerate(snapshots):
        where = f"snapshots[{i}]"
        _expect(entry, "step", where, _or_none(is_whole), "an integer or null")
        _check_returns(entry, _RETURNS, where, n_tasks)


def check_oracle(oracle: dict[str, Any], n_tasks: int) -> None:
    """Check the behavior's returns without exploration noise, as reports use them.

    Raises:
        DatasetError: with the field.
    """
    _check_returns(oracle, ("train", "test"), "oracle", n_tasks)
    _expect(oracle, "task_ids", "oracle", _are_whole, "a list of integers")
    _expect(oracle, "episodes", "oracle", lambda value: is_whole(value) and value > 0, "a positive integer")


def check_origin(
    recipe: dict[str, Any], seeds: dict[str, Any], versions: dict[str, Any], source: dict[str, Any]
) -> None:
    """Check the origin of a dataset, as summaries and reports use it.

    Raises:
        DatasetError: with the field.
    """
    _expect(recipe, "name", "recipe", _or_none(lambda value: isinstance(value, str)), "a string or null")
    _expect(seeds, "collection", "seeds", _or_none(is_whole), "an integer or null")
    for package in versions:
        _expect(versions, package, "versions", lambda value: isinstance(value, str), "a string")
    for file in source:
        _expect(source, file, "source", lambda value: isinstance(value, str), "a sha256 checksum")


def check_filled_in(counts: dict[str, Any], keys: dict[str, Any], checksums: dict[str, Any]) -> None:
    """Check the fields that the library fills in.

    Raises:
        DatasetError: with the field and entry.
    """
    for name, value in counts.items():
        if not is_whole(value) or value < 0:
            raise DatasetError(
                f"manifest: counts.{name} is {shown(value)}, expected an integer of at least 0"
            )
    for name, value in keys.items():
        sizes, dtype = value if isinstance(value, list) and len(value) == 2 else (None, None)
        whole = isinstance(sizes, list) and all(is_whole(size) and size > 0 for size in sizes)
        if not whole or not isinstance(dtype, str):
            raise DatasetError(f"manifest: keys.{name} is {shown(value)}, expected [[sizes], dtype]")
    for name, value in checksums.items():
        if not isinstance(value, str):
            raise DatasetError(f"manifest: checksums.{name} is {shown(value)}, expected a sha256 checksum")


def _check_returns(entry: dict[str, Any], names: tuple[str, ...], where: str, n_tasks: int) -> None:
    for name in names:
        _expect(entry, name, where, _or_none(is_number), "a number or null")

    def per_task(value: Any) -> bool:
        numbers = isinstance(value, list) and all(each is None or is_number(each) for each in value)
        return numbers and len(value) <= n_tasks

    _expect(entry, "task_returns", where, per_task, "a list of numbers or null, one per task")


def _are_whole(value: Any) -> bool:
    return isinstance(value, list) and all(map(is_whole, value))


def _or_none(allows: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or allows(value)


def _expect(entry: dict[str, Any], name: str, where: str, allows: Callable[[Any], bool], what: str) -> None:
    if name in entry and not allows(entry[name]):
        raise DatasetError(f"manifest: {where}.{name} is {shown(entry[name])}, expected {what}")
