"""Reads a report back from its ``results.json``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctmrl_torchrl.evaluation import REFERENCES
from ctmrl_torchrl.rules import ConfigError, is_number
from ctmrl_torchrl.storage import StorageError, expanded
from ctmrl_torchrl.studies.config import SEED, StudyConfig, study_from
from ctmrl_torchrl.studies.costs import UNITS
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import field_of
from ctmrl_torchrl.studies.files import read_json
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.results_file import MEASURES, RESULTS, SPLITS

__all__ = ["KeptReport", "commanded", "fields_of", "read_report"]

_STATES = ("done", "failed", "running", "interrupted", "waiting")
_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)[eE][+-]?\d+")
_References = dict[tuple[tuple[tuple[str, str], ...], str], dict[str, Any]]


@dataclass(frozen=True)
class KeptReport:
    """A report that was read from its ``results.json``.

    Args:
        name: name of its study.
        results: its runs. Their summaries hold what the file does: mean returns, noise of contexts, costs,
            references and times, without curves over episodes.
        origin: commands, commit, versions, machine, core hours and data, as in the file.
        referred: whether the file has references, which files of earlier versions lack.
    """

    name: str
    results: StudyResults
    origin: Mapping[str, Any]
    referred: bool


def read_report(place: str | Path) -> KeptReport:
    """Read the numbers of a report.

    Args:
        place: folder of the report, or its ``results.json``.

    Raises:
        StudyError: if it is not the file of a report, or a part of it cannot be read; the message names it.
    """
    try:
        folder = expanded(place)
    except StorageError as error:
        raise StudyError(f"The report {place} cannot be read: {error}.") from error
    file = folder / RESULTS if folder.is_dir() else folder
    content = read_json(file)
    if content is None and file.is_file():
        raise StudyError(f"The report {file} is damaged: it is no JSON object; make or copy it again.")
    if content is None or not {"study", "runs", "origin"} <= content.keys():
        raise StudyError(
            f"{place} holds no report of a study: expected the folder that `ctmrl study report` wrote, with its "
            f"{RESULTS}, or that file."
        )
    try:
        return _report(content)
    except (ConfigError, ValueError) as error:
        raise StudyError(f"The report {file} cannot be read: {str(error).rstrip('.')}.") from error


def _report(content: Mapping[str, Any]) -> KeptReport:
    config = study_from(_mapping(content["study"], "study"))
    origin = _mapping(content["origin"], "origin")
    commands = {
        label: _text(each, f"origin.commands.{label}") for label, each in _of(origin, "commands").items()
    }
    for package, found in _of(origin, "versions").items():
        _text(found, f"origin.versions.{package}")
    _number(origin.get("core_hours"), "origin.core_hours")
    data = _mapping(origin.get("data") or {}, "origin.data")
    notes = [_text(each, "notes") for each in _list(content.get("notes", []), "notes")]
    references = _references(_list(content.get("references", []), "references"))
    shared = content.get("settings")
    entries = [_mapping(each, "runs") for each in _list(content["runs"], "runs")]
    # the only data of a report are those of its runs, which files of an earlier version do not say of each
    alone = next(iter(data)) if len(data) == 1 and not any("data" in each for each in entries) else None
    runs = [_run(config, each, commands, references, shared, alone) for each in entries]
    labels = [each.run.label for each in runs]
    if twice := next((each for each in labels if labels.count(each) > 1), None):
        raise ValueError(f"it has the run {twice} twice")
    done = any(each.summary is not None for each in runs)
    results = StudyResults(config, tuple(runs), tuple(notes), resolved=shared is not None)
    return KeptReport(config.name, results, origin, bool(references) or not done)


def _references(entries: Sequence[Any]) -> _References:
    found: _References = {}
    names = {label: name for name, label in REFERENCES.items()}
    for each in (_mapping(entry, "references") for entry in entries):
        levels = _mapping(each.get("levels"), "references.levels")
        known: dict[str, Any] = {}
        if each.get("random") is not None:
            known["random"] = _number(each["random"], "references.random")
        if each.get("best") is not None:
            if each.get("name") not in names:
                raise ValueError(
                    f"references.name is {each.get('name')!r}, expected one of {', '.join(names)}"
                )
            known[names[each["name"]]] = _number(each["best"], "references.best")
        found[_key(levels), str(each.get("split"))] = known
    return found


def _key(levels: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((str(name), str(level)) for name, level in levels.items()))


def _run(
    config: StudyConfig,
    entry: Mapping[str, Any],
    commands: Mapping[str, str],
    references: _References,
    shared: Any,
    data: str | None,
) -> RunResult:
    levels = {}
    for name, level in _of(entry, "levels").items():
        if name not in config.factors or level not in config.levels(name):
            raise ValueError(f"runs.levels has {name}={level!r}, which is no level of the study")
        levels[name] = level
    if missing := [name for name in config.factors if name not in levels]:
        raise ValueError(f"runs.levels has no {missing[0]}")
    levels = {name: levels[name] for name in config.factors}
    label = " ".join(f"{name}={level}" for name, level in levels.items())
    if label not in commands:
        raise ValueError(f"origin.commands has no command of {label}")
    overrides = _overrides(commands[label])
    configuration = commanded(overrides)
    if shared is not None:
        own = _mapping(entry.get("settings", {}), "runs.settings")
        configuration = _nested({**_mapping(shared, "settings"), **own})
    state, error = entry.get("state"), str(entry.get("error", ""))
    if state not in _STATES:
        raise ValueError(f"the state of {label} is {state!r}, expected one of {', '.join(_STATES)}")
    summary = None
    if state == "done":
        row = {name: level for name, level in levels.items() if name not in (config.compare, SEED)}
        known = {split: references.get((_key(row), split), {}) for split in SPLITS}
        summary = _summary(entry, known["test"] | {"train": known["train"]})
    seconds = _number(entry.get("seconds", entry.get("wall_time_s", 0.0)), "runs.seconds")
    known_data = entry.get("data", data)
    run = PlannedRun(levels, overrides, configuration, "")
    return RunResult(
        run,
        state,
        _text(entry.get("identity"), "runs.identity"),
        error=error,
        summary=summary,
        seconds=seconds,
        fingerprint=None if known_data is None else _text(known_data, "runs.data"),
    )


def _overrides(command: str) -> tuple[str, ...]:
    """The overrides of a recorded command, without the files of a user's own choices."""
    words = shlex.split(command)
    plugins = {place + 1 for place, word in enumerate(words) if word == "--plugin"}
    return tuple(
        word
        for place, word in enumerate(words)
        if "=" in word and not word.startswith("--") and place not in plugins
    )


def commanded(overrides: Iterable[str]) -> dict[str, Any]:
    """The part of a configuration that overrides say.

    Examples:
        >>> commanded(["env=point_robot", "+schedule.updates=8"])
        {'env': 'point_robot', 'schedule': {'updates': 8}}
    """
    return _nested(fields_of(overrides))


def fields_of(overrides: Iterable[str]) -> dict[str, Any]:
    """The fields that overrides set, with their values."""
    return {field_of(each): _value(each.partition("=")[2]) for each in overrides}


def _value(text: str) -> Any:
    """The value of an override, so that texts of the same value are equal; a text that is no YAML as it is.

    Examples:
        >>> _value("False"), _value("1e-3"), _value("[1,2]"), _value("quick")
        (False, 0.001, [1, 2], 'quick')
    """
    try:
        return float(text) if _FLOAT.fullmatch(text) else yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted fields as sections; a chosen section, such as ``dataset=small``, is one with its name."""
    found: dict[str, Any] = {}
    for name in sorted(fields):
        *path, last = name.split(".")
        place = found
        for step in path:
            if not isinstance(place.get(step), dict):
                place[step] = {"name": place[step]} if step in place else {}
            place = place[step]
        place[last] = fields[name]
    return found


def _summary(entry: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's summary that its entry holds."""
    returns: dict[str, dict[str, dict[str, Any]]] = {}
    for split, protocols in _of(entry, "returns").items():
        where = f"runs.returns.{split}"
        returns[split] = {
            name: {"mean": _number(mean, f"{where}.{name}")}
            for name, mean in _mapping(protocols, where).items()
        }
        noise = _mapping(entry.get("context_noise") or {}, "runs.context_noise").get(split, {})
        for name, value in _mapping(noise, "runs.context_noise").items():
            if name in returns[split]:
                returns[split][name]["context_noise"] = _number(value, f"runs.context_noise.{split}.{name}")
    for name, cost in _mapping(entry.get("cost") or {}, "runs.cost").items():
        amounts = _mapping(cost, f"runs.cost.{name}")
        if name in returns.get("test", {}):
            known = {unit: _number(amounts.get(unit), f"runs.cost.{name}.{unit}") for unit in UNITS}
            returns["test"][name]["cost"] = known
    return {
        "returns": returns,
        "reference": dict(reference),
        "versions": {},
        "wall_time_s": _number(entry.get("wall_time_s"), "runs.wall_time_s"),
        **{name: entry[name] for name in MEASURES if name in entry},
    }


def _of(section: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return _mapping(section.get(name), name)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{where} is {_short(value)}, expected an object")
    return value


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{where} is {_short(value)}, expected a list")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{where} is {_short(value)}, expected a text")
    return value


def _number(value: Any, where: str) -> float:
    if not is_number(value):
        raise ValueError(f"{where} is {_short(value)}, expected a finite number")
    return float(value)


def _short(value: Any) -> str:
    text = "missing" if value is None else repr(value)
    return text if len(text) < 60 else f"{text[:56]} ..."
