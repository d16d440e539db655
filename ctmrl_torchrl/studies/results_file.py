"""``results.json`` of a report: the numbers and settings of every run, small enough for a repository."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.studies.identity import settings_of
from ctmrl_torchrl.studies.references import shared_reference
from ctmrl_torchrl.studies.results import rounded

__all__ = ["MEASURES", "RESULTS", "SPLITS", "numbers_of"]

#: the file's name
RESULTS = "results.json"
#: what a method's summary may say beyond its returns: use of the codes, losses of frozen modules
MEASURES = ("codebook", "pretraining")
SPLITS = ("test", "train")


def numbers_of(results: StudyResults) -> dict[str, Any]:
    """The study, its notes, the references of every row, and the settings and numbers of every run.

    ``settings`` are the fields that all runs share, those of a run are its others, unless they are not all known.
    """
    settings = [settings_of(each.run.configuration) if results.resolved else {} for each in results.runs]
    first, *others = settings
    shared = {
        field: value
        for field, value in first.items()
        if all(field in each and each[field] == value for each in others)
    }
    runs = []
    for each, own in zip(results.runs, settings, strict=True):
        entry: dict[str, Any] = {"levels": dict(each.run.levels), "state": each.state, "identity": each.key}
        if results.resolved:
            entry["settings"] = {field: value for field, value in own.items() if field not in shared}
        if each.error and each.state == "failed":
            entry["error"] = each.error
        if each.fingerprint is not None:
            entry["data"] = each.fingerprint
        if each.summary is not None:
            entry["returns"] = _by_protocol(each.summary, "mean")
            entry["context_noise"] = _by_protocol(each.summary, "context_noise")
            entry["cost"] = _by_protocol(each.summary, "cost").get("test", {})
            entry |= {name: each.summary[name] for name in MEASURES if each.summary.get(name) is not None}
            entry["wall_time_s"] = each.summary["wall_time_s"]
        if each.seconds != entry.get("wall_time_s", 0.0):
            entry["seconds"] = each.seconds
        runs.append(entry)
    return {
        "study": dataclasses.asdict(results.config),
        "notes": list(results.notes),
        "references": rounded(list(_references(results)), 6),
        **({"settings": shared} if results.resolved else {}),
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
    """The references of every row and split that its runs share, but for the study's own ``report.oracle``."""
    for row in results.rows():
        runs = [each for each in results.of_row(row) if each.summary is not None]
        for split in SPLITS:
            level = results.config.compare
            known = shared_reference([(each.run.levels[level], each.finished()) for each in runs], split)
            if known.random is not None or known.best is not None:
                values = {"random": known.random, "best": known.best, "name": known.name}
                yield {"levels": dict(row), "split": split, **values}
