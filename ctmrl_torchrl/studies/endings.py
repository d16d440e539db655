"""Counts how often the processes of runs ended without results."""

from __future__ import annotations

from collections import Counter

from ctmrl_torchrl.studies.jobs import Outcome
from ctmrl_torchrl.studies.records import RunRecord

__all__ = ["Endings"]


class Endings:
    """The endings of the runs of a study in one call: losses and failures are counted separately."""

    def __init__(self) -> None:
        self._times: Counter[tuple[str, str]] = Counter()
        self._updates: dict[str, int] = {}

    def count(self, outcome: Outcome, record: RunRecord) -> int:
        """Count one more, and return how often the run has ended like this.

        Losses count from the last one before which the checkpoint had got further.
        """
        ending = (outcome.key, outcome.state)
        if outcome.state == "lost":
            held = record.updates
            updates = -1 if held is None else held
            if updates > self._updates.get(outcome.key, updates):
                self._times[ending] = 0
            self._updates[outcome.key] = updates
        self._times[ending] += 1
        return self._times[ending]
