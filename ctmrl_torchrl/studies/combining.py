"""Combines finished reports into one: several environments, methods or seeds, without the runs themselves."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctmrl_torchrl.studies.changes import LEVELS_OF_REPORT
from ctmrl_torchrl.studies.config import SEED, StudyConfig, study_from
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import as_text
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.identity import differences, what_matters
from ctmrl_torchrl.studies.notes import SAID, notes_on
from ctmrl_torchrl.studies.origin import Origin, commit_of_package, machine
from ctmrl_torchrl.studies.results_file import KeptReport, read_report

__all__ = ["combine_reports"]

Levels = tuple[str, ...]


def combine_reports(places: Sequence[str | Path], name: str = "combined") -> tuple[StudyResults, Origin]:
    """The runs of several reports as the results of one study, checked to be comparable.

    Two reports may have different environments, methods, seeds, or levels of any other factor. Levels of the
    compared factor that some row lacks are left out with a note, unless all of them would be.

    Args:
        places: folders of reports, or their ``results.json``.
        name: name of the combined study.

    Returns:
        The results, without curves over episodes, and where they are from: the arguments of
        :func:`~ctmrl_torchrl.studies.report.write_report`.

    Raises:
        StudyError: if a report cannot be read, two reports have the same run, or runs differ in data or in a
            setting that no factor explains.
        ConfigError: if ``name`` is no name of a study.
    """
    if len(places) < 2:
        raise StudyError("Name two or more reports to combine: ctmrl study combine FOLDER FOLDER name=NAME.")
    reports = [read_report(place) for place in places]
    counted = [report.name for report in reports]
    names = [
        report.name if counted.count(report.name) == 1 else str(place)
        for report, place in zip(reports, places, strict=True)
    ]
    named = dict(zip(names, reports, strict=True))
    if len(named) < len(reports):
        raise StudyError(
            f"The report {next(each for each in names if names.count(each) > 1)} is named twice."
        )
    _check_factors(named)
    _check_runs(named)
    command = shlex.join(["ctmrl", "study", "combine", *map(str, places), f"name={name}"])
    config = _config(named, name, command)
    place_of = {levels: place for place, levels in enumerate(_grid(config))}
    runs = [each for report in reports for each in report.results.runs if _levels(config, each) in place_of]
    results = StudyResults(config, tuple(sorted(runs, key=lambda each: place_of[_levels(config, each)])))
    results = dataclasses.replace(results, notes=tuple(notes_on(results)))
    return results, _origin(reports, results)


def _check_factors(named: Mapping[str, KeptReport]) -> None:
    """Check that the reports have the same factors, and that a level means the same in all of them."""
    (first_name, first), *others = ((name, report.results.config) for name, report in named.items())
    for name, config in others:
        if config.compare != first.compare:
            raise StudyError(
                f"{first_name} compares the levels of {first.compare}, {name} those of {config.compare}; combine "
                "reports that compare the same factor."
            )
        for factor in sorted(set(first.factors) ^ set(config.factors)):
            has, lacks = (first_name, name) if factor in first.factors else (name, first_name)
            raise StudyError(
                f"{has} has the factor {factor} and {lacks} does not, so the level of {factor} that the runs of "
                f"{lacks} have is unknown."
            )
    known: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for name, report in named.items():
        config = report.results.config
        for factor in config.factors:
            for level in config.levels(factor):
                fields = _fields(config.overrides(factor, level))
                other, before = known.setdefault((factor, level), (name, fields))
                for field, (one, this) in differences(before, fields).items():
                    raise StudyError(
                        f"The level {factor}={level} has {_set(field, one)} in {other} and "
                        f"{_set(field, this)} in {name}, so their runs cannot be compared."
                    )


def _check_runs(named: Mapping[str, KeptReport]) -> None:
    """Check that no two reports have the same run, and that runs of one row have the same data, where known."""
    runs: dict[frozenset[tuple[str, str]], str] = {}
    data: dict[tuple[tuple[str, str], ...], tuple[str, str]] = {}
    for name, report in named.items():
        for each in report.results.runs:
            other = runs.setdefault(frozenset(each.run.levels.items()), name)
            if other != name:
                raise StudyError(
                    f"{other} and {name} both have the run {each.run.label}; leave one of them out."
                )
            if each.fingerprint is None or each.summary is None:
                continue
            row = tuple((factor, each.run.levels[factor]) for factor in sorted(report.results.row_factors))
            other, fingerprint = data.setdefault(row, (name, each.fingerprint))
            if fingerprint != each.fingerprint:
                where = " ".join(f"{factor}={level}" for factor, level in row) or "all rows"
                raise StudyError(
                    f"The runs of {where} have the data {fingerprint} in {other} and {each.fingerprint} in "
                    f"{name}, so they cannot be compared."
                )


def _config(named: Mapping[str, KeptReport], name: str, command: str) -> StudyConfig:
    """The combined study, which makes all runs again."""
    configs = [report.results.config for report in named.values()]
    first = configs[0]
    own, apart = _own_settings(named)
    factors: dict[str, Any] = {}
    for factor in first.factors:
        levels = list(dict.fromkeys(level for config in configs for level in config.levels(factor)))
        if factor == first.compare:
            levels, left_out = _complete(named, levels)
        factors[factor] = sorted(map(int, levels)) if factor == SEED else {
            level: [
                *next(each.overrides(factor, level) for each in configs if level in each.levels(factor)),
                *own.get(factor, {}).get(level, ()),
            ]
            for level in levels
        }  # fmt: skip
    content = {
        "name": name,
        "description": " ".join(dict.fromkeys(each.description for each in configs if each.description)),
        "factors": factors,
        "fixed": [each for each in first.fixed if _field(each) not in apart],
        "compare": first.compare,
        "protocols": list(dict.fromkeys(protocol for each in configs for protocol in each.protocols)),
    }
    grid = study_from(content)
    have = {_levels(grid, each) for report in named.values() for each in report.results.runs}
    report = dataclasses.asdict(first.report)
    for field in LEVELS_OF_REPORT:
        report[field] = report[field] if report[field] in grid.levels(grid.compare) else None
    report["notes"] = [*_notes(named, command), *_differences(named, sorted(apart - set(SAID))), *left_out]
    return study_from(content | {"exclude": _exclusions(grid, have), "report": report})


def _complete(named: Mapping[str, KeptReport], levels: list[str]) -> tuple[list[str], list[str]]:
    """The compared levels that every row has, or all if there is none, and a note on the others."""
    runs = [(report.results, each) for report in named.values() for each in report.results.runs]
    rows = {tuple(each.run.levels[factor] for factor in results.row_factors) for results, each in runs}
    have: dict[str, set[Levels]] = {level: set() for level in levels}
    for results, each in runs:
        row = tuple(each.run.levels[factor] for factor in results.row_factors)
        have[each.run.levels[results.config.compare]].add(row)
    complete = [level for level in levels if have[level] == rows] or levels
    others = ", ".join(level for level in levels if level not in complete)
    return complete, [f"Left out, because some rows have no run of them: {others}."] if others else []


def _own_settings(named: Mapping[str, KeptReport]) -> tuple[dict[str, dict[str, list[str]]], set[str]]:
    """What the reports fix differently, as ``{factor: {level: overrides}}`` of the row factor that explains it.

    Returns:
        The overrides, and the fields that they set.
    """
    fixed = {name: report.results.config.fixed for name, report in named.items()}
    pairs = itertools.combinations(map(_fields, fixed.values()), 2)
    differing = {field for one, other in pairs for field in differences(one, other)}
    if not differing:
        return {}, set()
    for factor in next(iter(named.values())).results.row_factors:
        levels: dict[str, list[list[str]]] = {}
        for name, report in named.items():
            for level in report.results.config.levels(factor):
                own = [each for each in fixed[name] if _field(each) in differing]
                levels.setdefault(level, []).append(own)
        if all(
            not differences(_fields(one), _fields(other)) for one, *rest in levels.values() for other in rest
        ):
            return {factor: {level: own for level, (own, *_) in levels.items()}}, differing
    field = min(differing)
    said = "; ".join(f"{name}: {_set(field, _fields(each).get(field))}" for name, each in fixed.items())
    raise StudyError(
        "The reports have different settings, and no factor explains them, so their runs cannot be compared: "
        f"{said}."
    )


def _field(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _fields(overrides: Sequence[str]) -> dict[str, Any]:
    """The fields that overrides set, without those that do not affect results."""
    return what_matters({_field(each): _value(each.partition("=")[2]) for each in overrides})


def _value(text: str) -> Any:
    """The value of an override, so that ``False`` and ``false`` are the same; a text that is no YAML as it is."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _set(field: str, value: Any) -> str:
    return f"no {field}" if value is None else f"{field}={as_text(value)}"


def _exclusions(grid: StudyConfig, have: set[Levels]) -> list[dict[str, Any]]:
    """The combinations that no report has, those that differ in the last factor alone in one rule."""
    lacking: dict[Levels, list[str]] = {}
    for levels in _grid(grid):
        if levels not in have:
            lacking.setdefault(levels[:-1], []).append(levels[-1])
    *others, last = grid.factors
    return [{**dict(zip(others, levels, strict=True)), last: rest} for levels, rest in lacking.items()]


def _grid(config: StudyConfig) -> Iterator[Levels]:
    return itertools.product(*(config.levels(factor) for factor in config.factors))


def _levels(config: StudyConfig, result: RunResult) -> Levels:
    return tuple(result.run.levels[factor] for factor in config.factors)


def _notes(named: Mapping[str, KeptReport], command: str) -> list[str]:
    """Where the runs are from, what the reports fix differently, and the notes of every report."""
    commits = {name: report.origin.get("commit") or "an installed package" for name, report in named.items()}
    said = ", ".join(f"{name} ({commit})" for name, commit in commits.items())
    notes: dict[str, list[str]] = {}
    for name, report in named.items():
        unknown = all(each.fingerprint is None for each in report.results.done())
        lacks = "The report does not say of every run which data it had." if unknown else ""
        for note in (*report.results.notes, *filter(None, (lacks, report.without))):
            notes.setdefault(note, []).append(name)
    return [
        f"Combined by `{command}` from reports, each written with the commit in brackets: {said}. It has no "
        "curves over episodes.",
        *(f"{', '.join(names)}: {note}" for note, names in notes.items()),
    ]


def _differences(named: Mapping[str, KeptReport], settings: Sequence[str]) -> Iterator[str]:
    """The settings of whole reports that differ and that no other note names."""
    for field in settings:
        values: dict[str, list[str]] = {}
        for name, report in named.items():
            words = [each.partition("=")[2] for each in report.results.config.fixed if _field(each) == field]
            values.setdefault(words[-1] if words else "not set", []).append(name)
        said = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
        yield f"The reports differ in {field} ({said})."


def _origin(reports: Sequence[KeptReport], results: StudyResults) -> Origin:
    origins = [report.origin for report in reports]
    versions: dict[str, list[str]] = {}
    for origin in origins:
        for package, found in origin["versions"].items():
            versions.setdefault(package, []).extend(found.split(", "))
    commands = {label: command for origin in origins for label, command in origin["commands"].items()}
    return Origin(
        command=shlex.join(["ctmrl", "study", "run", f"{results.config.name}.yaml"]),
        commands={each.run.label: commands[each.run.label] for each in results.runs},
        commit=commit_of_package(),
        versions={package: ", ".join(sorted(set(found))) for package, found in versions.items()},
        machine=machine(),
        core_hours=sum(origin["core_hours"] for origin in origins),
        data={key: what for origin in origins for key, what in (origin.get("data") or {}).items()},
    )
