"""The identity of a run, defined by its resolved configuration and its data instead of a folder name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from ctmrl_torchrl.guests import guests_of, names_in
from ctmrl_torchrl.storage import StorageError, expanded

__all__ = ["code_of", "data_key", "differences", "identity_of", "settings_of", "training_of", "what_matters"]

#: fields that affect how a run is executed but not its results
_ASIDE = (
    "dataset.collector",
    "dataset.path",
    "dataset.root",
    "dataset.verify",
    "deterministic",
    "device",
    "keep_memory",
    "output",
    "overwrite",
    "resume",
    "run_dir",
    "seeds",
    "threads",
)
#: values that give the same results as another value of the field
_SAME = {("compile", "recorded"): False}


def what_matters(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The flat fields of a configuration that affect results.

    Examples:
        >>> what_matters({"env": "a", "run_dir": "x", "dataset": {"recipe": "small", "root": "y"}})
        {'dataset.recipe': 'small', 'env': 'a'}
    """
    return {
        name: _SAME.get((name, value), value) if isinstance(value, str) else value
        for name, value in sorted(_flat(configuration))
        if not _is_aside(name)
    }


def settings_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What matters, and the place of given data, instead of which an identity has their fingerprint.

    Examples:
        >>> settings_of({"env": "a", "run_dir": "x", "dataset": {"path": "y"}})
        {'env': 'a', 'dataset.path': 'y'}
    """
    data = configuration.get("dataset")
    return what_matters(configuration) | {
        "dataset.path": data.get("path") if isinstance(data, Mapping) else None
    }


def code_of(configuration: Mapping[str, Any]) -> str:
    """A digest of the user's files whose registered choices affect the results; empty without any.

    Only the files that register the choices count, not the modules that these import. A file has the same digest
    as a plugin, as a module and as a program.

    Examples:
        >>> code_of({"env": "point_robot", "method": "ctmrl"})
        ''
    """
    guests = guests_of(set(names_in(what_matters(configuration))))
    return _digest({"files": sorted(guest.digest for guest in guests)}) if guests else ""


def data_key(configuration: Mapping[str, Any]) -> str:
    """A key that distinguishes the datasets of configurations before they exist.

    The file that registers a family of the user's own belongs to the key. A dataset at a given path is known by
    its absolute path and by the sizes and times of its files, so that changed data get another key.

    Examples:
        >>> one, other = {"env": "a", "seed": 0}, {"env": "a", "seed": 1}
        >>> data_key(one) == data_key(other) != data_key({"env": "b", "seed": 0})
        True
    """
    section = {name: value for name, value in _flat(configuration) if name.startswith("dataset.")}
    if section.get("dataset.path") is None:
        place = {name: value for name, value in section.items() if not _is_aside(name)}
    else:
        place = _given(section["dataset.path"])
    env = configuration.get("env")
    code = code_of({"env": env})
    own = {"code": code} if code else {}
    return _digest({"env": env, "tasks": configuration.get("tasks"), **place, **own})


def _is_aside(name: str) -> bool:
    return any(name == aside or name.startswith(f"{aside}.") for aside in _ASIDE)


def _given(path: str) -> dict[str, Any]:
    """What tells a given dataset from another one, and from itself after a change."""
    try:
        place = expanded(path).absolute()
        files = [place] if place.is_file() else sorted(place.rglob("*"))
        states = [(file, file.stat()) for file in files if file.is_file()]
    except (OSError, StorageError):  # reported when the data are opened
        return {"path": str(path)}
    known = [[str(file.relative_to(place)), state.st_size, state.st_mtime_ns] for file, state in states]
    return {"path": str(place), "files": known}


def identity_of(configuration: Mapping[str, Any], data: str, code: str = "") -> str:
    """A short key that two runs share exactly if they have the same settings, data and code of the user's own.

    A field without a value counts as missing, as in :func:`differences`: finished runs stay valid when a later
    version adds an option that is off by default.

    Args:
        configuration: resolved, nested.
        data: fingerprint of the dataset's content.
        code: digest of the user's files whose choices the configuration uses, see :func:`code_of`.

    Examples:
        >>> identity_of({"env": "a", "option": None}, "data") == identity_of({"env": "a"}, "data")
        True
    """
    settings = {name: value for name, value in what_matters(configuration).items() if value is not None}
    return _digest({"configuration": settings, "data": data} | ({"code": code} if code else {}))


def training_of(configuration: Mapping[str, Any], data: str, code: str = "") -> str:
    """A short key that runs share if they train the same agent and differ at most in how it is meta-tested.

    The interval between tests during training, ``evaluation.every``, counts as training.

    Args:
        configuration, data, code: as for :func:`identity_of`.

    Examples:
        >>> one = {"env": "a", "evaluation": {"every": 0, "protocols": ["np"]}}
        >>> other = {"env": "a", "evaluation": {"every": 0, "protocols": ["np", "none"]}}
        >>> training_of(one, "data") == training_of(other, "data")
        True
        >>> training_of(one, "data") == training_of({"env": "a", "evaluation": {"every": 9}}, "data")
        False
    """
    flat = what_matters(configuration)
    tests = {name for name in flat if name.startswith("evaluation.")} - {"evaluation.every"}
    return identity_of({name: value for name, value in flat.items() if name not in tests}, data, code)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The result-affecting fields that differ between two configurations, with both values.

    A missing field counts as ``None``, so a configuration from before a field existed equals one without a value
    for it.

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
    """A value as text; integers are equal with and without a decimal point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, Mapping):
        return json.dumps({str(name): _plain(entry) for name, entry in value.items()}, sort_keys=True)
    return json.dumps(value, sort_keys=True, default=str)


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_plain(value).encode()).hexdigest()[:16]
