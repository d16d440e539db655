"""Estimates the remaining time of a study from its finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from ctmrl_torchrl.machine import processor
from ctmrl_torchrl.studies.config import SEED
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.records import RunRecord

__all__ = ["Cost", "seconds_left"]


@dataclass(frozen=True)
class Cost:
    """The core seconds of a finished run.

    Args:
        whole: with its training, even if another run did that. test: without it; ``None`` if it trained itself.
        here: whether it was made on a processor like this machine's, as far as its record tells.
    """

    whole: float
    test: float | None = None
    here: bool = True

    @classmethod
    def of(cls, record: RunRecord) -> Cost:
        """The cost that a record tells."""
        here = {each.get("processor") for each in record.attempts} <= {None, processor()}
        return cls(record.seconds, record.own_seconds if record.inherits else None, here)


def seconds_left(
    open_runs: Sequence[tuple[PlannedRun, bool]], finished: Sequence[tuple[PlannedRun, Cost]]
) -> float | None:
    """Core seconds for the runs that are neither done nor failed.

    The estimate for a run is the time of the finished runs that differ from it in the fewest factors
    (ignoring the seed), and of these of the ones made on a processor like this machine's, if there are any.
    If another run has trained its agent, runs for which this was so as well tell its time. The progress of
    interrupted runs is not subtracted.

    Args:
        open_runs: these runs, and whether another run has trained their agent. finished: with their costs.

    Returns:
        ``None`` if none has finished yet.
    """
    if not open_runs:
        return 0.0
    whole = [(run, cost.whole, cost.here) for run, cost in finished if cost.whole > 0]
    tests = [(run, cost.test, cost.here) for run, cost in finished if cost.test is not None]
    if not whole:
        return None
    return sum(_expected(run, tests if trained and tests else whole) for run, trained in open_runs)


def _expected(run: PlannedRun, finished: list[tuple[PlannedRun, float, bool]]) -> float:
    apart = [(_distance(run, other), not here) for other, _, here in finished]
    nearest = min(apart)
    return fmean(cost[1] for cost, distance in zip(finished, apart, strict=True) if distance == nearest)


def _distance(one: PlannedRun, other: PlannedRun) -> int:
    return sum(one.levels[name] != other.levels[name] for name in one.levels if name != SEED)
