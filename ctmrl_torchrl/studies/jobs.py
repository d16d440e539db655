"""Jobs of runners and their outcomes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Job", "Outcome", "Runner", "Work"]


@dataclass(frozen=True)
class Job:
    """One run, or one dataset to prepare.

    Args:
        key: identity of the run, or key of the dataset.
        overrides: the overrides of the run.
        store (str): folder of the study's records and runs.
        label: for messages.
        training: what the run shares with others that train the same agent, see
            :func:`~ctmrl_torchrl.studies.identity.training_of`; empty for a dataset.
    """

    key: str
    overrides: tuple[str, ...]
    store: str
    label: str = ""
    training: str = ""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job.

    Args:
        key: key of the job.
        state: ``done``; ``failed`` with an error; ``lost`` if the process ended without an outcome; ``busy``
            if another process works on it.
        error: the error message; with ``done``, of an error after the results were written.
        value: the result of the work, such as the fingerprint of a dataset.
        peak_memory: peak memory of the process in bytes, if known.
    """

    key: str
    state: str
    error: str = ""
    value: str = ""
    peak_memory: int = 0


Work = Callable[[Job], Outcome]


class Runner(Protocol):
    """Runs jobs in processes of this machine or on a cluster."""

    @property
    def workers(self) -> int:
        """The number of jobs that can run at the same time, as far as known."""
        ...

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Run every job and yield the outcomes in the order of completion.

        ``work`` returns its errors instead of raising them; if a process ends without an outcome, its job is
        ``lost``. Closing the iterator early stops the running jobs.
        """
        ...
