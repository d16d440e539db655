"""``ctmrl study``: plan, run, monitor and report a study from the command line."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.storage import expanded, resolved
from ctmrl_torchrl.studies.combining import combine_reports
from ctmrl_torchrl.studies.config import StudyConfig, load_study
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.kept import read_report
from ctmrl_torchrl.studies.merging import merge_runs
from ctmrl_torchrl.studies.places import study_names
from ctmrl_torchrl.studies.results_file import RESULTS
from ctmrl_torchrl.studies.study import Study
from ctmrl_torchrl.studies.usage import HELP, asks_for_help

__all__ = ["HELP", "study_command"]

_ACTIONS = ("plan", "run", "status", "report", "list", "merge", "combine")
_SWITCHES = {"true": True, "false": False}


def study_command(arguments: Sequence[str], make: Callable[[StudyConfig, Path], Study] | None = None) -> str:
    """Run one action and return its output.

    Args:
        arguments: the arguments after ``ctmrl study`` on the command line.
        make: creates the study from its configuration and the folder of all studies.

    Returns:
        Text for the terminal.

    Raises:
        StudyError: for an unknown action or study, and for errors of the study.
        ConfigError: for a change that is not allowed.

    Examples:
        >>> "table1" in study_command(["list"])
        True
    """
    if asks_for_help(arguments):
        return HELP
    action, *rest = arguments
    if action not in _ACTIONS:
        raise StudyError(
            f"Unknown action {action!r}.{nearest(action, _ACTIONS)} Known: {', '.join(_ACTIONS)}."
        )
    if action == "list":
        return "\n".join(f"{name}: {load_study(name).description}" for name in study_names())
    if action == "merge":
        return _merged(rest)
    if action == "combine":
        return _combined(rest)
    if not rest or "=" in rest[0]:
        raise StudyError(f"Name a study: ctmrl study {action} NAME. Known: {', '.join(study_names())}.")
    name, *changes = rest
    root = expanded(_taken(changes, "root", "studies"))
    retry, progress = (_switch(changes, key, default) for key, default in _DEFAULTS.items())
    config = load_study(name, changes)
    study = Study(config, root) if make is None else make(config, root)
    if action == "plan":
        return _planned(study)
    if action == "status":
        return _counted(study.status())
    if action == "report":
        return f"the report is {study.report()}"
    status = study.run(progress=progress, retry_failed=retry)
    return "\n".join([_counted(status), *_failures(study), f"the report is {study.report()}"])


_DEFAULTS = {"retry_failed": "false", "progress": "true"}


def _merged(arguments: list[str]) -> str:
    root, begun = _taken(arguments, "root", "studies"), _taken(arguments, "begun", "keep")
    if begun not in ("keep", "replace"):
        raise StudyError(
            f"begun={begun}: write begun=keep or begun=replace.{nearest(begun, ('keep', 'replace'))}"
        )
    if len(arguments) != 1:
        raise StudyError("Name one folder of studies to copy from: ctmrl study merge FOLDER root=studies.")
    return str(merge_runs(arguments[0], root, replace_begun=begun == "replace"))


def _combined(arguments: list[str]) -> str:
    from ctmrl_torchrl.studies.report import check_report_place, write_report

    given = list(arguments)
    root, name = expanded(_taken(arguments, "root", "studies")), _taken(arguments, "name", "combined")
    places = [each for each in arguments if "=" not in each or expanded(each).exists()]
    levels: list[str] = []
    for each in arguments:
        if each not in places:
            compare = read_report(places[0]).results.config.compare if places else "method"
            option, _, text = each.partition("=")
            if option not in (compare, f"{compare}s"):
                known = ("name", "root", f"{compare}s")
                raise StudyError(
                    f"{each} is neither a report nor an option.{nearest(option, known)} "
                    f"Options: {', '.join(known)}."
                )
            levels = [level.strip() for level in text.strip("[]").split(",")]
    folder = root / name
    for place in places:
        if resolved(place) in (resolved(folder), resolved(folder / RESULTS)):
            raise StudyError(
                f"{place} is a report to combine and would be replaced; choose another name or root."
            )
    results, origin = combine_reports(places, name, levels)
    check_report_place(folder, name)
    origin = replace(origin, command=shlex.join(["ctmrl", "study", "combine", *given]))
    return f"the report is {write_report(results, folder, origin)}"


def _planned(study: Study) -> str:
    lines = [f"  {run.label}: {state}" for run, state in zip(study.runs, study.states(), strict=True)]
    return "\n".join([*lines, str(study.plan())])


def _counted(status: dict[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in status.items())


def _failures(study: Study) -> list[str]:
    """The failed runs with their errors, and how to try them again."""
    records = [(run.label, study.record(run)) for run in study.runs]
    failed = [
        f"failed: {label}: {record.error}"
        for label, record in records
        if record is not None and record.state() == "failed"
    ]
    return [*failed, "retry_failed=true tries them again"] if failed else []


def _taken(changes: list[str], key: str, default: str) -> str:
    """Take ``key=value`` out of the changes."""
    values = [each.partition("=")[2] for each in changes if each.startswith(f"{key}=")]
    changes[:] = [each for each in changes if not each.startswith(f"{key}=")]
    return values[-1] if values else default


def _switch(changes: list[str], key: str, default: str) -> bool:
    value = _taken(changes, key, default)
    if value not in _SWITCHES:
        raise StudyError(f"{key}={value}: expected {key}=true or {key}=false.")
    return _SWITCHES[value]
