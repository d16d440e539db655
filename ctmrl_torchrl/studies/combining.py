"""Combines finished reports into one: several environments, methods or seeds, without the runs themselves."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.studies.config import APART, SEED, StudyConfig, study_from
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.field_rules import as_text
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.identity import settings_of
from ctmrl_torchrl.studies.kept import KeptReport, commanded, read_report
from ctmrl_torchrl.studies.notes import SAID, notes_on
from ctmrl_torchrl.studies.origin import Origin, commit_of_package, machine
from ctmrl_torchrl.studies.results_file import SPLITS
from ctmrl_torchrl.studies.same_settings import check_settings, fixed_fields

__all__ = ["combine_reports"]

#: how methods are compared where neither a factor nor a setting says it
_USUALLY = "shared"


def combine_reports(
    places: Sequence[str | Path], name: str = "combined", levels: Sequence[str] = ()
) -> tuple[StudyResults, Origin]:
    """The runs of several reports as the results of one study, checked to be comparable.

    Two reports may have different environments, methods, seeds, or levels of any other factor. A factor that a
    report lacks has the level that its runs are set to.

    Args:
        places: folders of reports, or their ``results.json``.
        name: name of the combined study.
        levels: the levels of the compared factor to select; all by default.

    Returns:
        The results, without curves over episodes, and where they are from: the arguments of
        :func:`~ctmrl_torchrl.studies.report.write_report`.

    Raises:
        StudyError: if a report cannot be read, two reports have the same finished run, or runs that a table
            compares differ in data or in a setting that no factor explains.
        ConfigError: if ``name`` is no name of a study.
    """
    if len(places) < 2:
        raise StudyError("Name two or more reports to combine: ctmrl study combine FOLDER FOLDER name=NAME.")
    named = _named([str(place) for place in places])
    configs = {title: report.results.config for title, report in named.items()}
    first_title, first = next(iter(configs.items()))
    for title, config in configs.items():
        if config.compare != first.compare:
            raise StudyError(
                f"{first_title} compares the levels of {first.compare}, {title} those of {config.compare}; "
                "combine reports that compare the same factor."
            )
    factors = _factors(named)
    kept = _each_once(
        (title, _placed(each, factors, title))
        for title, report in named.items()
        for each in report.results.runs
    )
    if levels:
        _check_selection(levels, first.compare, [each.run.levels[first.compare] for _, each in kept])
        kept = [(title, each) for title, each in kept if each.run.levels[first.compare] in levels]
    check_settings(named, kept, first.compare)
    config = _config(named, name, factors, [each for _, each in kept])
    resolved = all(report.results.resolved for report in named.values())
    runs = _in_order((each if resolved else _as_commanded(each) for _, each in kept), config)
    results = _with_references(StudyResults(config, tuple(runs), resolved=resolved))
    results = dataclasses.replace(results, notes=tuple(notes_on(results)))
    chosen = [f"{first.compare}s=[{','.join(levels)}]"] if levels else []
    command = shlex.join(["ctmrl", "study", "combine", *map(str, places), f"name={name}", *chosen])
    return results, _origin(named, results, command)


def _named(places: Sequence[str]) -> dict[str, KeptReport]:
    """The reports by the names of their studies, those of the same name by their places."""
    reports = [read_report(place) for place in places]
    names = [report.name for report in reports]
    titles = [
        report.name if names.count(report.name) == 1 else place
        for report, place in zip(reports, places, strict=True)
    ]
    if twice := next((title for title in titles if titles.count(title) > 1), None):
        raise StudyError(f"The report {twice} is named twice.")
    return dict(zip(titles, reports, strict=True))


def _factors(named: Mapping[str, KeptReport]) -> list[str]:
    """The factors of all reports, in the order of the first; and ``comparison``, if the reports differ in it."""
    found = list(
        dict.fromkeys(factor for report in named.values() for factor in report.results.config.factors)
    )
    runs = [each for report in named.values() for each in report.results.runs]
    if APART not in found and len({_comparison(each.run) for each in runs}) > 1:
        found.insert(0, APART)
    return found


def _comparison(run: PlannedRun) -> str:
    return as_text(run.levels.get(APART) or settings_of(run.configuration).get(APART) or _USUALLY)


def _placed(result: RunResult, factors: Sequence[str], title: str) -> RunResult:
    """The run with a level of every factor; one that its own study lacks is what the run is set to."""
    run, settings = result.run, settings_of(result.run.configuration)
    levels = {}
    for factor in factors:
        level = run.levels.get(factor, settings.get(factor))
        if factor == APART:
            level = _comparison(run)
        if level is None:
            raise StudyError(
                f"{title} lacks the factor {factor}, and its runs do not say their {factor}, so they have no "
                "place in the table."
            )
        levels[factor] = as_text(level)
    return dataclasses.replace(result, run=PlannedRun(levels, run.overrides, run.configuration, ""))


def _as_commanded(result: RunResult) -> RunResult:
    """The run with the settings of its command alone, like those of reports that know no others."""
    run = dataclasses.replace(result.run, configuration=commanded(result.run.overrides))
    return dataclasses.replace(result, run=run)


def _each_once(runs: Iterable[tuple[str, RunResult]]) -> list[tuple[str, RunResult]]:
    """All runs with their reports; of a run that two reports have, the finished one."""
    found: dict[tuple[str, ...], tuple[str, RunResult]] = {}
    for title, each in runs:
        key = tuple(each.run.levels.values())
        other, known = found.setdefault(key, (title, each))
        if known is each or each.summary is None:
            continue
        if known.summary is not None:
            raise StudyError(
                f"{other} and {title} both have the run {each.run.label}; leave one of them out."
            )
        found[key] = (title, each)
    return list(found.values())


def _in_order(runs: Iterable[RunResult], config: StudyConfig) -> list[RunResult]:
    """The runs in the order of the grid."""
    places = {
        factor: {level: at for at, level in enumerate(config.levels(factor))} for factor in config.factors
    }
    return sorted(runs, key=lambda each: [places[factor][each.run.levels[factor]] for factor in places])


def _check_selection(levels: Sequence[str], compare: str, known: Sequence[str]) -> None:
    for level in levels:
        if level not in known:
            choices = list(dict.fromkeys(known))
            raise StudyError(
                f"No report has {compare}={level}.{nearest(level, choices)} Known: {', '.join(choices)}."
            )


def _with_references(results: StudyResults) -> StudyResults:
    """The results, with the references of a row for those of its runs whose report has none."""
    known: dict[tuple[str, ...], Mapping[str, Any]] = {}

    def row(each: RunResult) -> tuple[str, ...]:
        return tuple(each.run.levels[factor] for factor in results.row_factors)

    def completed(each: RunResult) -> RunResult:
        if each.summary is None or _is_known(each.summary["reference"]) or row(each) not in known:
            return each
        return dataclasses.replace(each, summary={**each.summary, "reference": known[row(each)]})

    for each in results.done():
        if _is_known(each.finished()["reference"]):
            known.setdefault(row(each), each.finished()["reference"])
    return dataclasses.replace(results, runs=tuple(map(completed, results.runs)))


def _is_known(reference: Mapping[str, Any]) -> bool:
    return bool(reference.keys() - {"train"} or reference.get("train"))


def _config(
    named: Mapping[str, KeptReport], name: str, factors: Sequence[str], runs: Sequence[RunResult]
) -> StudyConfig:
    """The grid of the runs, the report with the settings of all reports."""
    configs = [report.results.config for report in named.values()]
    levels: dict[str, list[Any]] = {}
    for factor in factors:
        order = dict.fromkeys(
            level for each in configs if factor in each.factors for level in each.levels(factor)
        )
        have = dict.fromkeys(each.run.levels[factor] for each in runs)
        levels[factor] = [level for level in order if level in have] + [
            level for level in have if level not in order
        ]
    if SEED in levels:
        levels[SEED] = sorted(levels[SEED], key=int)
    compare, reports = configs[0].compare, [each.report for each in configs]
    protocols = list(dict.fromkeys(protocol for each in configs for protocol in each.protocols))
    report = dataclasses.asdict(reports[0]) | {
        "splits": [split for split in SPLITS if any(split in each.splits for each in reports)],
        "paper": next((each.paper for each in reports if each.paper is not None), None),
        "paper_columns": {level: title for each in reports for level, title in each.paper_columns.items()},
        "after": sorted({number for each in reports for number in each.after}),
        "figure_protocols": [],
        "notes": list(_notes(named)),
    }
    if all(each.figure_protocols for each in reports):
        drawn = dict.fromkeys(protocol for each in reports for protocol in each.figure_protocols)
        report["figure_protocols"] = [
            protocol for protocol in drawn if not protocols or protocol in protocols
        ]
    for field in ("baseline", "oracle"):
        chosen = dict.fromkeys(
            level for each in reports if (level := getattr(each, field)) in levels[compare]
        )
        if field == "oracle" and len(chosen) > 1:
            raise StudyError(f"The reports have different oracles: {', '.join(map(str, chosen))}.")
        report[field] = next(iter(chosen), None)
    return study_from(
        {
            "name": name,
            "description": " ".join(dict.fromkeys(each.description for each in configs if each.description)),
            "factors": levels,
            "compare": compare,
            "protocols": protocols,
            "report": report,
        }
    )


def _notes(named: Mapping[str, KeptReport]) -> Iterator[str]:
    """Where the runs are from, what whole reports fix differently, and the notes of every report."""
    commits = {name: report.origin.get("commit") or "an installed package" for name, report in named.items()}
    said = ", ".join(f"{name} ({commit})" for name, commit in commits.items())
    yield f"Combined from reports, each written with the commit in brackets: {said}. No curves over episodes."
    fixed = {name: fixed_fields(report) for name, report in named.items()}
    for field in sorted({field for fields in fixed.values() for field in fields} - set(SAID)):
        values: dict[str, list[str]] = {}
        for name, fields in fixed.items():
            values.setdefault(as_text(fields.get(field, "not set")), []).append(name)
        if len(values) > 1:
            said = "; ".join(f"{value}: {', '.join(names)}" for value, names in values.items())
            yield f"The reports differ in {field} ({said})."
    notes: dict[str, list[str]] = {}
    for name, report in named.items():
        unknown = any(each.fingerprint is None for each in report.results.done())
        own = {
            "Not every run says which data it had.": unknown,
            "A report of an earlier version, without references.": not report.referred,
            "A report of an earlier version, of whose settings only those of its commands are known.": (
                not report.results.resolved
            ),
        }
        for note in (*report.results.notes, *(note for note, holds in own.items() if holds)):
            notes.setdefault(note, []).append(name)
    for note, names in notes.items():
        yield f"{', '.join(names)}: {note}"


def _origin(named: Mapping[str, KeptReport], results: StudyResults, command: str) -> Origin:
    origins = [report.origin for report in named.values()]
    versions: dict[str, list[str]] = {}
    for origin in origins:
        for package, found in origin["versions"].items():
            versions.setdefault(package, []).extend(found.split(", "))
    return Origin(
        command=command,
        commands={
            each.run.label: shlex.join(["ctmrl", "train", *each.run.overrides]) for each in results.runs
        },
        commit=commit_of_package(),
        versions={package: ", ".join(sorted(set(found))) for package, found in versions.items()},
        machine=machine(),
        core_hours=sum({each.key: each.seconds for each in results.done()}.values()) / 3600,
        data={key: what for origin in origins for key, what in (origin.get("data") or {}).items()},
        reports=tuple(named),
    )
