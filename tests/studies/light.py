"""Work for runners that loads nothing heavy in their processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from ctmrl_torchrl.stopping import Stopped, deferred, stop_requested
from ctmrl_torchrl.studies.jobs import Outcome


@dataclass(frozen=True)
class Note:
    """Says which process did the job, and under which settings; the job ``dies`` kills its process."""

    pause: float = 0.0

    def __call__(self, job):
        if job.key == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.pause)
        return Outcome(job.key, "done", value=f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}")


@dataclass(frozen=True)
class Patient:
    """Goes on until it is asked to stop, and then says so in a file, as a run that writes its checkpoint."""

    log: str

    def __call__(self, job):
        with deferred():
            self._note(f"start {job.key}")
            while stop_requested() is None:
                time.sleep(0.02)
            self._note(f"checkpoint {job.key}")
        raise Stopped(int(stop_requested() or 0))

    def _note(self, line):
        with open(self.log, "a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
