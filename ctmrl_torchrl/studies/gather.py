"""Collects the results of a study's runs and checks that they are comparable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ctmrl_torchrl.evaluation import SummaryError, load_summary
from ctmrl_torchrl.studies.config import SEED, StudyConfig
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.identity import differences, identity_of, what_matters
from ctmrl_torchrl.studies.records import RunRecord
from ctmrl_torchrl.studies.references import Reference, shared_reference

__all__ = ["RunResult", "StudyResults", "gather"]

#: settings that are noted if they differ between compared levels: environment, data, budgets, task set, policy
#: loss, and the updates during which encoder and policy learn
_SAID = (
    "env",
    "tasks",
    "held_out",
    "dataset.path",
    "dataset.recipe",
    "dataset.seed",
    "batch.tasks",
    "batch.transitions",
    "schedule.updates",
    "schedule.policy_start",
    "schedule.representation_end",
    "policy_loss.name",
    "evaluation.episodes",
    "evaluation.random_episodes",
    "evaluation.final_repeats",
)


@dataclass(frozen=True)
class RunResult:
    """One run and what came of it.

    Args:
        run: the planned run.
        state: see :meth:`~ctmrl_torchrl.studies.records.RunRecord.state`.
        key: its identity, empty while its data are unknown.
        folder: its folder. error: the error, if any.
        summary: summary of a finished run.
        seconds: time of the run, without a training that it took over from another run.
    """

    run: PlannedRun
    state: str
    key: str = ""
    folder: Path | None = None
    error: str = ""
    summary: Mapping[str, Any] | None = None
    seconds: float = 0.0

    def finished(self) -> Mapping[str, Any]:
        """The summary of a run that is done."""
        assert self.summary is not None, f"{self.run.label} is not done"
        return self.summary


@dataclass(frozen=True)
class StudyResults:
    """All runs of a study with their results.

    Args:
        config: the study. runs: all runs of its grid.
        notes: notes for every table of the results.
    """

    config: StudyConfig
    runs: tuple[RunResult, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def compared(self) -> tuple[str, ...]:
        """The compared levels."""
        return self.config.levels(self.config.compare)

    @property
    def row_factors(self) -> tuple[str, ...]:
        """The factors whose combinations are the rows of a table."""
        return tuple(name for name in self.config.factors if name not in (self.config.compare, SEED))

    def rows(self) -> list[dict[str, str]]:
        """The combinations of row factors with runs, in the order of the grid."""
        found = [{name: each.run.levels[name] for name in self.row_factors} for each in self.runs]
        return [row for index, row in enumerate(found) if row not in found[:index]]

    def of_row(self, row: Mapping[str, str]) -> list[RunResult]:
        """The runs of one row."""
        return [
            each for each in self.runs if all(each.run.levels[name] == level for name, level in row.items())
        ]  # fmt: skip

    def cell(self, row: Mapping[str, str], level: str) -> list[RunResult]:
        """The runs of one row and one compared level: its seeds."""
        return self.of_row({**row, self.config.compare: level})

    def scores(
        self, row: Mapping[str, str], level: str, split: str, protocol: str, after: int | None = None
    ) -> list[float]:
        """The mean return of every finished run of a cell with this protocol.

        Args:
            row: levels of the row's factors. level: level of the compared factor. split: ``test`` or ``train``.
            protocol: adaptation protocol.
            after: number of collected episodes before the measured one; None means the last episode. Runs with
                fewer episodes are omitted.
        """
        entries = [
            each.summary["returns"].get(split, {}).get(protocol)
            for each in self.cell(row, level)
            if each.summary is not None
        ]
        known = [entry for entry in entries if entry is not None]
        if after is None:
            return [float(entry["mean"]) for entry in known]
        curves = [entry["per_episode"] for entry in known]
        return [float(curve[after]) for curve in curves if len(curve) > after]

    def protocols(self) -> list[str]:
        """The protocols of the study, and those that only some of its runs have."""
        found = [
            name
            for each in self.done()
            for protocols in each.finished()["returns"].values()
            for name in protocols
        ]
        return list(dict.fromkeys([*self.config.protocols, *found]))

    def done(self) -> list[RunResult]:
        """The finished runs."""
        return [each for each in self.runs if each.summary is not None]

    def references(self, row: Mapping[str, str], split: str) -> Reference:
        """The references that all finished runs of a row share."""
        runs = [each for each in self.of_row(row) if each.summary is not None]
        return shared_reference(
            [(each.run.levels[self.config.compare], each.finished()) for each in runs], split
        )


def gather(config: StudyConfig, runs: Iterable[tuple[PlannedRun, RunRecord | None]]) -> StudyResults:
    """Read the summaries of the finished runs and check that they match the plan.

    Raises:
        StudyError: if a run's configuration or dataset differs from the others in a field that is not a factor
            of the study; the message contains the field.
    """
    results = tuple(_result(run, record) for run, record in runs)
    found = StudyResults(config, results)
    _refuse_other_configurations(found.done())
    _refuse_other_data(found.done())
    return StudyResults(config, results, tuple(_notes(found)))


def _result(run: PlannedRun, record: RunRecord | None) -> RunResult:
    if record is None:
        return RunResult(run, "waiting")
    state, summary = record.state(), None
    if state == "done":
        try:
            summary = load_summary(record.folder / "summary.json")
        except SummaryError as error:
            raise StudyError(
                f"The summary of {run.label} cannot be used: {error} Move its folder {record.folder} "
                "away and run the study again."
            ) from error
    seconds = 0.0 if summary is None else summary["wall_time_s"]
    if record.inherits:
        seconds = min(seconds, record.own_seconds)
    return RunResult(run, state, record.key, record.folder, record.error, summary, seconds)


def _refuse_other_configurations(done: list[RunResult]) -> None:
    """Check that a run's recorded configuration matches the study."""
    for each in done:
        planned, summary = each.run.configuration, each.finished()
        file = None if each.folder is None else each.folder / "config.yaml"
        if file is not None and file.is_file():
            for name, (found, asked) in differences(_configuration(each, file), planned).items():
                _refuse(each, name, found, asked)
        for name in ("env", "method", "seed"):
            if name in planned and summary[name] != planned[name]:
                _refuse(each, name, summary[name], planned[name])
        asked = what_matters(planned).get("schedule.updates")
        if asked is not None and summary["updates"] != asked:
            _refuse(each, "schedule.updates", summary["updates"], asked)


def _configuration(result: RunResult, file: Path) -> Mapping[str, Any]:
    """The configuration that a run has recorded."""
    try:
        written = yaml.safe_load(file.read_text(encoding="utf-8"))
        reason = "it is not a mapping"
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        written, reason = None, (str(error).splitlines() or [type(error).__name__])[0]
    if not isinstance(written, dict):
        raise StudyError(
            f"The configuration of {result.run.label}, {file}, cannot be read ({reason}); restore it, or move "
            f"the folder {result.folder} away and run the study again."
        )
    return written


def _refuse(result: RunResult, name: str, found: Any, asked: Any) -> None:
    raise StudyError(
        f"The run {result.run.label} cannot be compared: its {name} is {found!r}, the study has {asked!r}, "
        f"and {name} is not a factor that explains this. Its folder is {result.folder}."
    )


def _refuse_other_data(done: list[RunResult]) -> None:
    first: dict[str, RunResult] = {}
    for each in done:
        other = first.setdefault(each.run.data, each)
        data = each.finished()["dataset"], other.finished()["dataset"]
        for name, (found, known) in differences(*data).items():
            raise StudyError(
                f"The runs {each.run.label} and {other.run.label} cannot be compared: their data differ in "
                f"{name}, which is {found!r} and {known!r}. Their folders are {each.folder} and "
                f"{other.folder}."
            )


def _notes(results: StudyResults) -> Iterator[str]:
    yield from results.config.report.notes
    compare = results.config.compare
    for name in _SAID:
        if name == compare:
            continue
        differing: dict[str, set[str]] = {}
        for row in results.rows():
            values = {
                level: str(_said(cell[0].run.configuration).get(name))
                for level in results.compared
                if (cell := results.cell(row, level))
            }
            if len(set(values.values())) > 1:
                for level, value in values.items():
                    differing.setdefault(level, set()).add(value)
        if differing:
            said = ", ".join(f"{level}: {' or '.join(sorted(values))}" for level, values in differing.items())
            yield f"The levels of {compare} differ in {name} as well ({said})."
    yield from _equal_levels(results)
    versions: dict[str, set[str]] = {}
    for each in results.done():
        for package, version in each.finished()["versions"].items():
            versions.setdefault(package, set()).add(version)
    for package, found in sorted(versions.items()):
        if len(found) > 1:
            yield f"The runs were made with several versions of {package}: {', '.join(sorted(found))}."
    failed = [each for each in results.runs if each.state == "failed"]
    missing = len(results.runs) - len(results.done()) - len(failed)
    if failed:
        yield f"{len(failed)} of {len(results.runs)} runs failed; the tables count them, the means do not."
    if missing:
        yield f"{missing} of {len(results.runs)} runs are not done yet."


def _said(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What matters, and the place of the data: an identity has their fingerprint instead."""
    data = configuration.get("dataset") or {}
    return what_matters(configuration) | {"dataset.path": data.get("path")}


def _equal_levels(results: StudyResults) -> Iterator[str]:
    """Levels with the same configuration and data, which a table compares with themselves."""
    equal: dict[tuple[str, ...], dict[str, None]] = {}
    for row in results.rows():
        runs: dict[tuple[str, ...], list[str]] = {}
        for level in results.compared:
            keys = tuple(
                identity_of(each.run.configuration, each.run.data, each.run.code)
                for each in results.cell(row, level)
            )
            if keys:
                runs.setdefault(keys, []).append(level)
        for levels in runs.values():
            if len(levels) > 1:
                equal.setdefault(tuple(levels), {})[", ".join(row.values())] = None
    for levels, rows in equal.items():
        where = f" ({'; '.join(rows)})" if any(rows) else ""
        yield f"The levels {' and '.join(levels)} have the same configuration: they are the same runs{where}."
