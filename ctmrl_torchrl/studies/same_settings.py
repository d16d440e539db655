"""Whether runs of several reports that one table compares differ in nothing but their levels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

from ctmrl_torchrl.studies.config import APART, SEED
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import as_text, field_of
from ctmrl_torchrl.studies.gathered import RunResult
from ctmrl_torchrl.studies.identity import settings_of, what_matters
from ctmrl_torchrl.studies.kept import KeptReport, fields_of

__all__ = ["check_settings", "fixed_fields"]

Runs = Sequence[tuple[str, RunResult]]

#: fields in which runs of one row may differ: what tests them, and their seed
_FREE = ("evaluation.protocols", SEED)
#: fields that choose the data
_DATA = ("env", "held_out", "preset", "tasks")
#: settings of data that do not change them
_ASIDE = (
    "dataset.collector",
    "dataset.collector.kind",
    "dataset.collector.workers",
    "dataset.root",
    "dataset.verify",
)


#: the value of a field that is not set, which differs from null
_UNSET = "not set"


def check_settings(named: Mapping[str, KeptReport], runs: Runs, compare: str) -> None:
    """Check that runs are comparable, as ``studies.gather`` checks those of one study.

    - Reports with runs of one row fix the same settings.
    - A level means the same in all reports.
    - Runs of one cell have the same settings, where the reports have recorded all of them.
    - Runs whose commands ask for the same data had the same data, where the reports say which.

    Args:
        named: the reports by name. runs: the runs with the names of their reports. compare: the compared factor.

    Raises:
        StudyError: for the first difference, with the field.
    """
    _check_levels(named)
    rows: dict[tuple[str, ...], dict[str, list[RunResult]]] = {}
    cells: dict[tuple[str, ...], dict[str, list[RunResult]]] = {}
    for name, each in runs:
        row = tuple(
            f"{factor}={level}" for factor, level in each.run.levels.items() if factor not in (compare, SEED)
        )
        rows.setdefault(row, {}).setdefault(name, []).append(each)
        cell = (*row, f"{compare}={each.run.levels[compare]}")
        cells.setdefault(cell, {}).setdefault(name, []).append(each)
    for row, found in rows.items():
        for one, other in combinations(found, 2):
            _check_fixed(row, {name: named[name] for name in (one, other)}, found)
    for cell, found in cells.items():
        for one, other in combinations([name for name in found if named[name].results.resolved], 2):
            _check_cell(cell, {name: named[name] for name in (one, other)}, found)
    _check_data(runs)


def fixed_fields(report: KeptReport) -> dict[str, Any]:
    """The settings that the report's study fixes for all runs, but for those that do not affect results."""
    return _fields(report.results.config.fixed)


def _fields(overrides: Sequence[str]) -> dict[str, Any]:
    """The fields that overrides set, of which ``null`` is a value; and the place of given data."""
    found = fields_of(overrides)
    place = {name: value for name, value in found.items() if name == "dataset.path"}
    return {name: value for name, value in (what_matters(found) | place).items() if name not in _FREE}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for field in sorted({*one, *other}):
        values = one.get(field, _UNSET), other.get(field, _UNSET)
        if values[0] != values[1] or isinstance(values[0], bool) != isinstance(values[1], bool):
            yield field, *values


def _check_levels(named: Mapping[str, KeptReport]) -> None:
    known: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {}
    for name, report in named.items():
        config = report.results.config
        for factor in config.factors:
            for level in config.levels(factor):
                fields = _fields(config.overrides(factor, level))
                other, before = known.setdefault((factor, level), (name, fields))
                for field, one, this in _differing(before, fields):
                    _refuse(f"The level {factor}={level}", field, {other: one, name: this})


def _check_fixed(
    row: Sequence[str], reports: Mapping[str, KeptReport], found: Mapping[str, Sequence[RunResult]]
) -> None:
    """Reject what two reports with this row fix differently, unless their runs show that it is the same."""
    one, other = reports
    for field, *values in _differing(fixed_fields(reports[one]), fixed_fields(reports[other])):
        if field in _factor_fields(reports.values()):
            continue  # a level tells the difference
        if all(report.results.resolved for report in reports.values()):
            have = [
                {as_text(settings_of(each.run.configuration).get(field)) for each in found[name]}
                for name in reports
            ]
            if have[0] == have[1]:
                continue
        data = [{each.fingerprint for each in found[name]} for name in reports]
        if field == "dataset.path" and data[0] == data[1] and None not in data[0]:
            continue  # copies of the same data
        _refuse(" ".join(row) or "All rows", field, dict(zip(reports, values, strict=True)))


def _factor_fields(reports: Iterable[KeptReport]) -> set[str]:
    """The fields that are factors; ``comparison`` is one wherever reports differ in it."""
    return {APART, *(factor for report in reports for factor in report.results.config.factors)}


def _check_cell(
    cell: Sequence[str], reports: Mapping[str, KeptReport], found: Mapping[str, Sequence[RunResult]]
) -> None:
    """Reject other settings of runs that differ in their seed alone, but for what depends on it."""
    one, other = reports
    settings = {name: [settings_of(each.run.configuration) for each in found[name]] for name in reports}
    free = {*_FREE, "dataset.path", *_depending_on_the_seed(reports.values())}
    for field, *values in _differing(settings[one][0], settings[other][0]):
        varies = any(each.get(field) != every[0].get(field) for every in settings.values() for each in every)
        if field not in free and not varies:
            _refuse(" ".join(cell), field, dict(zip(reports, values, strict=True)))


def _depending_on_the_seed(reports: Iterable[KeptReport]) -> Iterator[str]:
    """The fields that overrides set to a value such as ``${seed}``."""
    for config in (report.results.config for report in reports):
        levels = ((factor, level) for factor in config.factors for level in config.levels(factor))
        overrides = (each for factor, level in levels for each in config.overrides(factor, level))
        for each in (*config.fixed, *overrides):
            if "${" in each:
                yield field_of(each)


def _check_data(runs: Runs) -> None:
    known: dict[tuple[str, ...], tuple[str, str]] = {}
    for name, each in runs:
        if each.fingerprint is None or each.summary is None:
            continue
        asked = {field_of(word): word.partition("=")[2] for word in each.run.overrides}
        key = tuple(
            f"{field}={value.replace('${seed}', asked.get(SEED, ''))}"
            for field, value in sorted(asked.items())
            if field in _DATA or (field.startswith("dataset") and field not in _ASIDE)
        )
        other, data = known.setdefault(key, (name, each.fingerprint))
        if data != each.fingerprint:
            raise StudyError(
                f"Runs with {' '.join(key) or 'the same settings of data'} had the data {data} in {other} and "
                f"{each.fingerprint} in {name}, so they cannot be compared."
            )


def _refuse(where: str, field: str, values: Mapping[str, Any]) -> None:
    said = " and ".join(f"{as_text(value)} in {name}" for name, value in values.items())
    raise StudyError(
        f"{where}: {field} is {said}, and no factor explains the difference, so the runs cannot be compared."
    )
