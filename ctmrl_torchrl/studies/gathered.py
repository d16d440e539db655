"""The results of a study's runs, and which of them belong to a row, a cell or a protocol of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from ctmrl_torchrl.evaluation.summary import REFERENCES
from ctmrl_torchrl.studies.config import APART, SEED, StudyConfig
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.references import Reference, shared_reference
from ctmrl_torchrl.training.validate import tells_the_task

__all__ = ["RunResult", "StudyResults"]


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
        fingerprint: of its data; ``None`` while they are not prepared.
    """

    run: PlannedRun
    state: str
    key: str = ""
    folder: Path | None = None
    error: str = ""
    summary: Mapping[str, Any] | None = None
    seconds: float = 0.0
    fingerprint: str | None = None

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
        resolved: whether the configurations are complete. Those of a report of an earlier version are the
            overrides of its recorded commands.
    """

    config: StudyConfig
    runs: tuple[RunResult, ...]
    notes: tuple[str, ...] = field(default=())
    resolved: bool = True

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
                fewer episodes, or without their returns, are omitted.
        """
        known = self._entries(row, level, split, protocol)
        if after is None:
            return [float(entry["mean"]) for entry in known]
        curves = [entry.get("per_episode", ()) for entry in known]
        return [float(curve[after]) for curve in curves if len(curve) > after]

    def costs(
        self, row: Mapping[str, str], level: str, split: str, protocol: str
    ) -> list[Mapping[str, float]]:
        """The adaptation cost of every finished run of a cell that has recorded it."""
        return [
            entry["cost"]
            for entry in self._entries(row, level, split, protocol)
            if entry.get("cost") is not None
        ]

    def _entries(
        self, row: Mapping[str, str], level: str, split: str, protocol: str
    ) -> list[Mapping[str, Any]]:
        """The entries of a protocol in the summaries of a cell's finished runs."""
        entries = [
            each.summary["returns"].get(split, {}).get(protocol)
            for each in self.cell(row, level)
            if each.summary is not None
        ]
        return [entry for entry in entries if entry is not None]

    def apart(self) -> list[StudyResults]:
        """One part for every level of ``comparison``, the way of comparing methods, which no table mixes."""
        levels = self.config.levels(APART) if APART in self.row_factors else ()
        if len(levels) < 2:
            return [self]
        factors = self.config.factors
        return [
            replace(
                self,
                config=replace(self.config, factors={**factors, APART: [level]}),
                runs=tuple(each for each in self.runs if each.run.levels[APART] == level),
            )
            for level in levels
        ]

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
        """The references that all finished runs of a row share.

        Where no optimum is known, the mean return of the level ``report.oracle``, if set, is the best known one.
        """
        compare, oracle = self.config.compare, self.config.report.oracle
        runs = [each for each in self.of_row(row) if each.summary is not None]
        reference = shared_reference([(each.run.levels[compare], each.finished()) for each in runs], split)
        if oracle is None or reference.problem or reference.name == REFERENCES["optimum"]:
            return reference
        told = [each.finished()["returns"].get(split) for each in runs if each.run.levels[compare] == oracle]
        means = [_told(protocols)["mean"] for protocols in told if protocols]
        return replace(reference, best=fmean(means), name=REFERENCES["oracle"]) if means else reference


def _told(protocols: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """The returns of an oracle: those of the protocol that tells it the task, else its best ones."""
    telling = [each for name, each in protocols.items() if tells_the_task(name)]
    return max(telling or protocols.values(), key=lambda each: each["mean"])
