"""The runner for Slurm clusters, based on submitit's job arrays."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctmrl_torchrl.rules import POSITIVE, Rule, among, ruled, whole
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.jobs import Job, Outcome, Work
from ctmrl_torchrl.studies.runners.base import RUNNERS, Packed

__all__ = ["SlurmRunner"]

_OPTIONS = Rule(lambda value: isinstance(value, dict), "a mapping of submitit's parameters")


@RUNNERS.register("slurm")
@dataclass
class SlurmRunner:
    """Submits one job array for all runs; the folders of runs and datasets must be on shared storage.

    Args:
        workers (int): number of simultaneous tasks of the array.
        minutes (int): time limit of a run. A run that exceeds it is lost and resumes from its checkpoint.
        memory_gb (float): memory of a run.
        cluster (str): ``slurm``, or ``local`` for testing with processes of this machine.
        parameters (dict): additional parameters of submitit: ``{slurm_partition: cpu, slurm_account: lab}``.
        poll (float): polling interval in seconds.
    """

    workers: int = ruled(32, whole(1))
    minutes: int = ruled(24 * 60, whole(1))
    memory_gb: float = ruled(4.0, POSITIVE)
    cluster: str = ruled("slurm", among("slurm", "local"))
    parameters: dict[str, Any] = ruled({}, _OPTIONS)
    poll: float = ruled(5.0, POSITIVE)

    def run(self, work: Work, jobs: Sequence[Job]) -> Iterator[Outcome]:
        """See :class:`~ctmrl_torchrl.studies.jobs.Runner`."""
        if not jobs:
            return
        submitted = self._executor(jobs[0].store).map_array(Packed.of(work), jobs)
        running = dict(enumerate(zip(submitted, jobs, strict=True)))
        try:
            while running:
                for number, (task, job) in list(running.items()):
                    if task.done():
                        del running[number]
                        yield _outcome(task, job)
                if running:
                    time.sleep(self.poll)
        finally:
            for task, _ in running.values():
                task.cancel()

    def _executor(self, store: str) -> Any:
        try:
            import submitit
        except ImportError as error:
            raise StudyError(
                "The runner 'slurm' needs submitit: pip install 'ctmrl_torchrl[slurm]'."
            ) from error
        executor = submitit.AutoExecutor(folder=Path(store) / "slurm", cluster=self.cluster)
        own = {} if self.cluster == "local" else {"slurm_array_parallelism": self.workers}
        usual = {
            "name": "ctmrl-study",
            "timeout_min": self.minutes,
            "mem_gb": self.memory_gb,
            "cpus_per_task": 1,
        }
        executor.update_parameters(**(usual | own | self.parameters))
        return executor


def _outcome(task: Any, job: Job) -> Outcome:
    try:
        return task.result()
    except Exception as error:  # Slurm ended the job, or its process died
        return Outcome(job.key, "lost", f"the job {task.job_id} ended: {type(error).__name__}")
