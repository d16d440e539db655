"""What a runner carries out, and what comes of it."""

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
        overrides: what it is described by.
        store (str): folder of the study's records and runs.
        label: for messages.
    """

    key: str
    overrides: tuple[str, ...]
    store: str
    label: str = ""


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Args:
        key: of the job.
        state: ``done``; ``failed`` with an error; ``lost`` where the process ended without a word; ``busy``
            where another process works on it.
        error: what went wrong.
        value: what the work returned, such as the fingerprint of a dataset.
        peak_memory: largest memory of the process in bytes, where it is known.
    """

    key: str
    state: str
    error: str = ""
    value: str = ""
    peak_memory: int = 0


Work = Callable[[Job], Outcome]


class Runner(Protocol):
    """Carries out jobs somewhere: in processes of this machine, on a cluster."""

    @property
    def workers(self) -> int:
        """How many jobs can run at the same time, as far as is known."""
        ...

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """Carry out every job and yield its outcome when it has one, in the order of completion.

        ``work`` never raises for what goes wrong within it; a process that ends without an outcome makes its
        job ``lost``. Closing the iterator early ends what is still running.
        """
        ...
