"""Estimates the remaining time of a study from its finished runs."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from ctmrl_torchrl.studies.config import SEED
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.records import RunRecord

__all__ = ["seconds_left"]


def seconds_left(runs: Iterable[tuple[PlannedRun, RunRecord | None]]) -> float | None:
    """Core seconds for the runs that are neither done nor failed.

    The estimate for a run is the time of the finished runs that differ from it in the fewest factors
    (ignoring the seed). The progress of interrupted runs is not subtracted.

    Args:
        runs: all runs of a study with their records.

    Returns:
        ``None`` if none has finished yet.
    """
    finished: list[tuple[PlannedRun, float]] = []
    open_runs: list[PlannedRun] = []
    for run, record in runs:
        state = "waiting" if record is None else record.state()
        if state == "done" and record is not None:
            finished.append((run, record.seconds))
        elif state != "failed":
            open_runs.append(run)
    if not open_runs:
        return 0.0
    finished = [(run, seconds) for run, seconds in finished if seconds > 0]
    if not finished:
        return None
    return sum(_expected(run, finished) for run in open_runs)


def _expected(run: PlannedRun, finished: list[tuple[PlannedRun, float]]) -> float:
    apart = [_distance(run, other) for other, _ in finished]
    nearest = min(apart)
    return fmean(
        seconds for (_, seconds), distance in zip(finished, apart, strict=True) if distance == nearest
    )


def _distance(one: PlannedRun, other: PlannedRun) -> int:
    return sum(one.levels[name] != other.levels[name] for name in one.levels if name != SEED)
