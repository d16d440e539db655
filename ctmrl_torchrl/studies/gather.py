"""Collects the results of a study's runs and checks that they are comparable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from ctmrl_torchrl.evaluation import SummaryError, load_summary
from ctmrl_torchrl.studies.config import StudyConfig
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.identity import differences, what_matters
from ctmrl_torchrl.studies.notes import notes_on
from ctmrl_torchrl.studies.records import RunRecord, data_fingerprint
from ctmrl_torchrl.training.config import DATA_ALONE

__all__ = ["gather"]


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
    return StudyResults(config, results, tuple(notes_on(found)))


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
    data = data_fingerprint(record.store, run.data)
    return RunResult(run, state, record.key, record.folder, record.error, summary, seconds, data)


def _refuse_other_configurations(done: list[RunResult]) -> None:
    """Check that a run's recorded configuration matches the study."""
    for each in done:
        planned, summary = each.run.configuration, each.finished()
        file = None if each.folder is None else each.folder / "config.yaml"
        if file is not None and file.is_file():
            for name, (found, asked) in differences(_configuration(each, file), planned).items():
                _refuse(each, name, found, asked)
        for name in ("env", "method", "seed"):
            if planned.get(name, DATA_ALONE) not in (DATA_ALONE, summary[name]):
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
