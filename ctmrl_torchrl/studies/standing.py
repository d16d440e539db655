"""How far the runs of a study are at one moment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ctmrl_torchrl.studies.estimates import Cost, seconds_left
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.records import RunRecord, data_fingerprint, trained_run

__all__ = ["Standing"]

_ORDER = ("done", "running", "interrupted", "waiting", "failed")
_CLOSED = ("done", "failed")


@dataclass(frozen=True)
class Standing:
    """The runs of a study with their records and states, each of which was read once.

    Args:
        store: folder of the records.
        data: the fingerprint of every dataset by its key; ``None`` until it is prepared.
        runs: all runs.
        records: their records; ``None`` until the dataset is prepared.
        states: their states, see :meth:`RunRecord.state`.
    """

    store: Path
    data: Mapping[str, str | None]
    runs: Sequence[PlannedRun]
    records: Sequence[RunRecord | None]
    states: Sequence[str]

    @classmethod
    def read(cls, store: Path, runs: Sequence[PlannedRun]) -> Standing:
        """Read the records. Runs with the same identity share one."""
        data = {key: data_fingerprint(store, key) for key in {run.data for run in runs}}
        keys = [None if (known := data[run.data]) is None else run.identity(known) for run in runs]
        records = {key: None if key is None else RunRecord(store, key) for key in set(keys)}
        states = {key: "waiting" if record is None else record.state() for key, record in records.items()}
        return cls(store, data, runs, [records[key] for key in keys], [states[key] for key in keys])

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of ``done``, ``running``, ``interrupted``, ``waiting`` and ``failed`` runs."""
        counts = Counter(self.states)
        return {state: counts[state] for state in _ORDER if counts[state]}

    @property
    def seconds_left(self) -> float | None:
        """Core seconds for the open runs; ``None`` until a run has finished."""
        finished = [
            (run, Cost.of(record))
            for run, record, state in zip(self.runs, self.records, self.states, strict=True)
            if state == "done" and record is not None
        ]
        return seconds_left([(run, self._is_trained(run)) for run in self._open], finished)

    def time_left(self, workers: int) -> float | None:
        """Seconds until the open runs are done, when so many run at a time."""
        seconds = self.seconds_left
        return None if seconds is None else seconds / max(min(workers, len(self._open)), 1)

    @property
    def _open(self) -> list[PlannedRun]:
        return [run for run, state in zip(self.runs, self.states, strict=True) if state not in _CLOSED]

    def _is_trained(self, run: PlannedRun) -> bool:
        """Whether another run has trained its agent."""
        data = self.data[run.data]
        return data is not None and trained_run(self.store, run.training(data)) is not None
