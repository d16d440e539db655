"""How long the rest of a study will take, from the runs that have finished."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from ctmrl_torchrl.studies.config import SEED
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.records import RunRecord

__all__ = ["seconds_left"]


def seconds_left(runs: Iterable[tuple[PlannedRun, RunRecord | None]]) -> float | None:
    """Seconds of one processor for the runs that are neither done nor failed.

    A run is expected to take as long as the finished ones that differ from it in the fewest factors (the seed
    does not count). What interrupted runs have done already is not subtracted.

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
