"""The runner for Ray clusters, based on Ray Core tasks."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ctmrl_torchrl.rules import NOT_NEGATIVE, POSITIVE, TEXT, or_none, ruled, whole
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.jobs import Job, Outcome, Work
from ctmrl_torchrl.studies.runners.base import ONE_THREAD, RUNNERS, Packed
from ctmrl_torchrl.studies.runners.memory import cpu_count

__all__ = ["RayRunner"]


@RUNNERS.register("ray")
@dataclass
class RayRunner:
    """Runs Ray Core tasks with one processor each; a task whose process dies resumes from the run's checkpoint.

    Without an address, a cluster is started on this machine and stopped with the study. On a cluster of several
    machines, the folders of runs and datasets must be on shared storage.

    Args:
        address (str or None): address of a running cluster, such as ``auto`` or ``ray://head:10001``.
        workers (int or None): number of processors of a cluster started here.
        retries (int): number of retries of a task whose process died.
        memory_gb (float or None): memory that a task reserves.
        gpus (float): fraction of a GPU that a task reserves.
    """

    address: str | None = ruled(None, or_none(TEXT))
    workers: int | None = ruled(None, or_none(whole(1)))  # type: ignore[assignment]
    retries: int = ruled(3, whole(0))
    memory_gb: float | None = ruled(None, or_none(POSITIVE))
    gpus: float = ruled(0.0, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        if self.workers is None:
            self.workers = cpu_count()

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """See :class:`~ctmrl_torchrl.studies.jobs.Runner`."""
        with self._cluster() as ray:
            options: dict[str, Any] = {"num_cpus": 1, "num_gpus": self.gpus, "max_retries": self.retries}
            if self.memory_gb is not None:
                options["memory"] = int(self.memory_gb * 1024**3)
            task = ray.remote(**options)(_carry_out)
            shared = ray.put(Packed.of(work))
            running = {task.remote(shared, job): job for job in jobs}
            try:
                while running:
                    done, _ = ray.wait(list(running), num_returns=1, timeout=1.0)
                    for reference in done:
                        yield _outcome(ray, reference, running.pop(reference))
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)

    @contextmanager
    def _cluster(self) -> Iterator[Any]:
        here = self.address is None
        with _environment({"RAY_AUTH_MODE": "disabled"} if here else {}):
            try:
                import ray
            except ImportError as error:
                raise StudyError("The runner 'ray' needs Ray: pip install 'ctmrl_torchrl[ray]'.") from error
            started = not ray.is_initialized()
            if started:
                own = {"num_cpus": self.workers, "include_dashboard": False} if here else {}
                ray.init(
                    address=self.address,
                    log_to_driver=False,
                    runtime_env={"env_vars": ONE_THREAD},
                    **own,
                )
            try:
                self.workers = max(int(ray.cluster_resources().get("CPU", self.workers)), 1)
                yield ray
            finally:
                if started:
                    ray.shutdown()


def _carry_out(work: Work, job: Job) -> Outcome:
    return work(job)


def _outcome(ray: Any, reference: Any, job: Job) -> Outcome:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # the worker could not deserialize the work
        return Outcome(job.key, "failed", str(error).strip().splitlines()[-1])
    except ray.exceptions.RayError as error:
        return Outcome(job.key, "lost", f"the worker process ended: {type(error).__name__}")


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block; existing values are kept."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
