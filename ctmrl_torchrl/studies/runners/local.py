"""The runner for processes of this machine, based on joblib's ``loky``."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import dataclass

from joblib.externals.loky import ProcessPoolExecutor

from ctmrl_torchrl.rules import POSITIVE, or_none, ruled, whole
from ctmrl_torchrl.stopping import stop_signals
from ctmrl_torchrl.studies.jobs import Job, Outcome, Work
from ctmrl_torchrl.studies.runners.base import ONE_THREAD, RUNNERS, Packed
from ctmrl_torchrl.studies.runners.memory import available_memory, cpu_count

__all__ = ["LocalRunner"]

_GIGABYTE = 1024**3
_WATCH = "ctmrl-ends-with-its-study"
_GROWING = 30.0  # seconds in which a run may still come to need what it will
_STOPPING = 30.0  # seconds in which a run may write its checkpoint before its process is killed


@RUNNERS.register("local")
@dataclass
class LocalRunner:
    """Runs one single-threaded process per processor.

    Every process has a separate pool, so a killed process only affects its own run. If the study is stopped, its
    runs write their checkpoints. If it is killed, its processes end within a second.

    Args:
        workers (int or None): number of simultaneous runs; by default one per processor.
        memory_gb (float): free memory required for starting another run, or the peak memory of a finished
            run if larger. At least one run is always started.
    """

    workers: int | None = ruled(None, or_none(whole(1)))  # type: ignore[assignment]
    memory_gb: float = ruled(1.5, POSITIVE)

    def __post_init__(self) -> None:
        if self.workers is None:
            self.workers = cpu_count()

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """See :class:`~ctmrl_torchrl.studies.jobs.Runner`."""
        workers = cpu_count() if self.workers is None else self.workers
        waiting, free = deque(jobs), [_Slot() for _ in range(min(workers, len(jobs)))]
        slots, running = list(free), {}
        needed, started = int(self.memory_gb * _GIGABYTE), deque()
        try:
            while waiting or running:
                while waiting and free and (not running or _fits(needed, started)):
                    slot, job = free.pop(), waiting.popleft()
                    running[slot.submit(work, job)] = (slot, job)
                    started.append(time.monotonic())
                done, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    slot, job = running.pop(future)
                    outcome = slot.outcome(future, job)
                    needed = max(needed, outcome.peak_memory)
                    free.append(slot)
                    yield outcome
        finally:
            try:
                for slot, _ in running.values():
                    slot.stop()
                wait(running, timeout=_STOPPING)
            finally:
                busy = {id(slot) for future, (slot, _) in running.items() if not future.done()}
                for slot in slots:
                    slot.close(kill=id(slot) in busy)


def _fits(needed: int, started: deque[float]) -> bool:
    """Whether there is memory for another run, taking recently started runs into account."""
    now = time.monotonic()
    while started and now - started[0] > _GROWING:
        started.popleft()
    available = available_memory()
    return available is None or available >= needed * (1 + len(started))


class _Slot:
    """A pool of one process, which is replaced if the process dies."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, work: Work, job: Job) -> Future:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(max_workers=1, env=ONE_THREAD)
        return self._pool.submit(_within, Packed.of(work), job, os.getpid())

    def outcome(self, future: Future, job: Job) -> Outcome:
        try:
            return future.result()
        except BrokenExecutor as error:
            self.close(kill=True)
            return Outcome(job.key, "lost", f"the worker process ended: {type(error).__name__}")
        except Exception as error:  # the worker could not deserialize the work
            return Outcome(job.key, "failed", f"{type(error).__name__}: {error}")

    def stop(self) -> None:
        """Ask the run to write its checkpoint and stop, as SIGTERM does with a run of its own."""
        if self._pool is not None:
            for pid in tuple(self._pool._processes or ()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)

    def close(self, kill: bool) -> None:
        """End the process; one without a job ends by itself, so that it can clean up its semaphores."""
        if self._pool is not None:
            self._pool.shutdown(wait=not kill, kill_workers=kill)
            self._pool = None


def _within(work: Packed, job: Job, parent: int) -> Outcome:
    if not any(thread.name == _WATCH for thread in threading.enumerate()):
        threading.Thread(target=_end_with, args=(parent,), name=_WATCH, daemon=True).start()
    try:
        with stop_signals():
            return work(job)
    except SystemExit as error:  # stopped before or after the run itself
        return Outcome(job.key, "lost", f"the run was stopped (exit status {error.code})")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
