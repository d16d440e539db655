"""Which run a run is: by its resolved configuration and its data, never by the name of a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["data_key", "differences", "identity_of", "what_matters"]

#: fields that say where and how a run is carried out, not what it computes
_ASIDE = (
    "dataset.path",
    "dataset.root",
    "dataset.verify",
    "device",
    "keep_memory",
    "output",
    "overwrite",
    "resume",
    "run_dir",
    "seeds",
    "threads",
)


def what_matters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The flat fields of a configuration that results depend on.

    Examples:
        >>> what_matters({"env": "a", "run_dir": "x", "dataset": {"recipe": "small", "root": "y"}})
        {'dataset.recipe': 'small', 'env': 'a'}
    """
    return {
        name: value
        for name, value in sorted(_flat(configuration))
        if not any(name == aside or name.startswith(f"{aside}.") for aside in _ASIDE)
    }


def data_key(configuration: Mapping[str, Any]) -> str:
    """What tells the datasets of two configurations apart before they have been made.

    Examples:
        >>> one, other = {"env": "a", "seed": 0}, {"env": "a", "seed": 1}
        >>> data_key(one) == data_key(other) != data_key({"env": "b", "seed": 0})
        True
    """
    section = {name: value for name, value in _flat(configuration) if name.startswith("dataset.")}
    if section.get("dataset.path") is None:
        place = {name: value for name, value in section.items() if name not in _ASIDE}
    else:
        place = {"path": section["dataset.path"]}
    return _digest({"env": configuration.get("env"), "tasks": configuration.get("tasks"), **place})


def identity_of(configuration: Mapping[str, Any], data: str) -> str:
    """Short text that two runs share exactly if they compute the same from the same data.

    Args:
        configuration: resolved, nested.
        data: fingerprint of the dataset's content.
    """
    return _digest({"configuration": what_matters(configuration), "data": data})


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields that matter and differ between two configurations, with both values.

    A field that one of them lacks is ``None`` there: a configuration that was written before a field existed
    agrees with one where the field has no value.

    Examples:
        >>> differences({"env": "a", "seed": 0, "run_dir": "x"}, {"env": "a", "seed": 1, "run_dir": "y"})
        {'seed': (0, 1)}
    """
    one, other = what_matters(one), what_matters(other)
    return {
        name: (one.get(name), other.get(name))
        for name in sorted({*one, *other})
        if _plain(one.get(name)) != _plain(other.get(name))
    }


def _flat(configuration: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in configuration.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _plain(value: Any) -> str:
    """A value as text; a whole number is the same with and without a decimal point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping):
        return json.dumps({str(name): _plain(entry) for name, entry in value.items()}, sort_keys=True)
    return json.dumps(value, sort_keys=True, default=str)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_plain(value).encode()).hexdigest()[:16]
