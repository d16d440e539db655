"""``results.json`` of a report: the numbers of every run, small enough for a repository, and how to read them."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctmrl_torchrl.evaluation import REFERENCES
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.storage import expanded
from ctmrl_torchrl.studies.config import StudyConfig, study_from
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import read_json
from ctmrl_torchrl.studies.gathered import RunResult, StudyResults
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.results import rounded

__all__ = ["RESULTS", "KeptReport", "numbers_of", "read_report"]

#: the file's name
RESULTS = "results.json"
#: what a method's summary may say beyond its returns: use of the codes, losses of frozen modules
_MEASURES = ("codebook", "pretraining")
_SPLITS = ("test", "train")
_NO_REFERENCES = "A report of an earlier version, without references, so without normalized scores."


@dataclass(frozen=True)
class KeptReport:
    """A report that was read from its ``results.json``.

    Args:
        name: name of its study.
        results: its runs. Their summaries hold what the file does: mean returns, noise of contexts, costs,
            references and times, without curves over episodes. Their configurations are the recorded overrides.
        origin: commands, commit, versions, machine, core hours and data, as in the file.
        without: a sentence on what a file of an earlier version lacks; empty if it lacks nothing.
    """

    name: str
    results: StudyResults
    origin: Mapping[str, Any]
    without: str = ""


def numbers_of(results: StudyResults) -> dict[str, Any]:
    """The study, its notes, the references of every row, and the numbers of every run."""
    runs = []
    for each in results.runs:
        entry: dict[str, Any] = {"levels": dict(each.run.levels), "state": each.state, "identity": each.key}
        if each.error and each.state == "failed":
            entry["error"] = each.error
        if each.fingerprint is not None:
            entry["data"] = each.fingerprint
        if each.summary is not None:
            entry["returns"] = _by_protocol(each.summary, "mean")
            entry["context_noise"] = _by_protocol(each.summary, "context_noise")
            entry["cost"] = _by_protocol(each.summary, "cost").get("test", {})
            entry |= {name: each.summary[name] for name in _MEASURES if each.summary.get(name) is not None}
            entry["wall_time_s"] = each.summary["wall_time_s"]
        runs.append(entry)
    return {
        "study": dataclasses.asdict(results.config),
        "notes": list(results.notes),
        "references": rounded(list(_references(results)), 6),
        "runs": rounded(runs, 6),
    }


def _by_protocol(summary: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """A number of every split and protocol that has it."""
    return {
        split: {
            protocol: result[name] for protocol, result in protocols.items() if result.get(name) is not None
        }
        for split, protocols in summary["returns"].items()
    }


def _references(results: StudyResults) -> Iterator[dict[str, Any]]:
    """What the scores of every row and split refer to, where its runs share it."""
    for row in results.rows():
        for split in _SPLITS:
            known = results.references(row, split)
            if known.random is not None or known.best is not None:
                yield {
                    "levels": dict(row),
                    "split": split,
                    "random": known.random,
                    "best": known.best,
                    "name": known.name,
                }


def read_report(place: str | Path) -> KeptReport:
    """Read the numbers of a report.

    Args:
        place: folder of the report, or its ``results.json``.

    Raises:
        StudyError: if it is not the file of a report, or its study cannot be read any more.
    """
    place = expanded(place)
    file = place / RESULTS if place.is_dir() else place
    content = read_json(file)
    if content is None or not {"study", "runs", "origin"} <= content.keys():
        raise StudyError(
            f"{place} holds no report of a study: expected the folder that `ctmrl study report` wrote, with its "
            f"{RESULTS}, or that file."
        )
    try:
        config = study_from(content["study"])
        origin = content["origin"]
        references = {
            (tuple(sorted(each["levels"].items())), each["split"]): each
            for each in content.get("references", ())
        }
        data = list(origin.get("data") or ())
        alone = data[0] if len(data) == 1 else None  # of an earlier version, whose entries do not say it
        runs = tuple(_run(config, entry, origin["commands"], references, alone) for entry in content["runs"])
        notes = tuple(map(str, content.get("notes", ())))
        results = StudyResults(config, runs, notes)
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise StudyError(f"The report {file} cannot be read: {reason}.") from error
    without = "" if references or not results.done() else _NO_REFERENCES
    return KeptReport(config.name, results, origin, without)


def _run(
    config: StudyConfig,
    entry: Mapping[str, Any],
    commands: Mapping[str, str],
    references: Mapping[tuple[tuple[tuple[str, str], ...], str], Mapping[str, Any]],
    data: str | None,
) -> RunResult:
    levels = {name: str(entry["levels"][name]) for name in config.factors}
    label = " ".join(f"{name}={level}" for name, level in levels.items())
    overrides = tuple(word for word in shlex.split(commands[label]) if "=" in word and word[:2] != "--")
    configuration = dict(each.lstrip("+~").split("=", 1) for each in overrides)
    run = PlannedRun(levels, overrides, configuration, "")
    summary = None
    if entry["state"] == "done":
        row = {name: level for name, level in levels.items() if name not in (config.compare, "seed")}
        known = {split: references.get((tuple(sorted(row.items())), split), {}) for split in _SPLITS}
        summary = _summary(entry, known)
    seconds = float(entry.get("wall_time_s", 0.0))
    error, data = str(entry.get("error", "")), entry.get("data", data)
    return RunResult(run, entry["state"], entry["identity"], None, error, summary, seconds, data)


def _summary(entry: Mapping[str, Any], references: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The part of a run's summary that its entry holds."""
    further = {"context_noise": entry.get("context_noise", {}), "cost": {"test": entry.get("cost", {})}}
    returns: dict[str, dict[str, dict[str, Any]]] = {}
    for split, protocols in entry["returns"].items():
        returns[split] = {protocol: {"mean": float(mean)} for protocol, mean in protocols.items()}
        for name, found in further.items():
            for protocol, value in found.get(split, {}).items():
                returns[split][protocol][name] = value
    return {
        "returns": returns,
        "reference": _reference(references["test"]) | {"train": _reference(references["train"])},
        "versions": {},
        "wall_time_s": float(entry["wall_time_s"]),
        **{name: entry[name] for name in _MEASURES if name in entry},
    }


def _reference(known: Mapping[str, Any]) -> dict[str, Any]:
    """A reference as in a summary: the returns by their names."""
    names = {label: name for name, label in REFERENCES.items()}
    found = {"random": known.get("random")}
    if known.get("best") is not None:
        found[names[known["name"]]] = known["best"]
    return found
