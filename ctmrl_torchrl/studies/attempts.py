"""The work of a worker process: one attempt at a run, or the preparation of one dataset."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctmrl_torchrl.evaluation import SummaryError, load_summary
from ctmrl_torchrl.guests import Guest
from ctmrl_torchrl.progress import plain_log
from ctmrl_torchrl.studies.files import write_json
from ctmrl_torchrl.studies.jobs import Job, Outcome
from ctmrl_torchrl.studies.records import RunRecord, data_file, locked, run_folder

__all__ = ["Attempt", "Preparation", "quoted"]

_CHANGED = "has changed since the study was started, so that its runs are others; start the study again."

Execute = Callable[[list[str]], Any]
Prepare = Callable[[Sequence[str]], str]


def quoted(value: str | Path) -> str:
    """Quote a string as a value on Hydra's command line.

    Examples:
        >>> quoted("runs/a-1"), quoted("my runs/b=1")
        ('runs/a-1', "'my runs/b=1'")
        >>> print(quoted("it's"), quoted("a\\\\b"))
        'it\\'s' 'a\\b'
    """
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./:-]+", text):
        return text
    # Hydra keeps backslashes except those before a quote; OmegaConf would interpolate ${...}.
    text = text.replace("${", "\\${")
    return "'" + re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), text) + "'"


@dataclass(frozen=True)
class Attempt:
    """Attempt a run once: from its checkpoint, from that of a finished run which trained the same agent, or
    from the start.

    Args:
        execute: called with the overrides of the run, including ``run_dir`` and, if there is a checkpoint,
            ``resume``. It must write a ``summary.json`` to the run's folder.
        wait: seconds to wait for another process that holds the run.
    """

    execute: Execute
    wait: float = 30.0

    def __call__(self, job: Job) -> Outcome:
        """Run the attempt. Errors within the run are returned, not raised."""
        with locked(job.store, job.key, self.wait) as free:
            if not free:
                return Outcome(job.key, "busy", f"another process works on {job.label or job.key}")
            record = RunRecord(job.store, job.key)
            if record.state() == "done":
                if not record.settled:
                    record.settle(job.training)
                    _drop_replaced(record.folder)
                return Outcome(job.key, "done")
            return self._attempt(job, record)

    def _attempt(self, job: Job, record: RunRecord) -> Outcome:
        folder, attempt = record.folder, record.start(job)
        overrides = [*job.overrides, f"run_dir={quoted(folder)}", "output.progress=false"]
        trained_by = attempt["trained_by"]
        if attempt["resumed"]:
            source = folder if trained_by is None else run_folder(job.store, trained_by)
            overrides.append(f"resume={quoted(source)}")
        if (trained_by is not None or not attempt["resumed"]) and any(folder.glob("*")):
            overrides.append("overwrite=true")  # what an earlier attempt has left there
        late = ""  # an error that came after the results were written leaves the run done
        try:
            self.execute(overrides)
        except Exception as error:
            late = _said(error)
            write_json(folder.with_name(f"{folder.name}.error.json"), {"traceback": traceback.format_exc()})
        except SystemExit as error:  # the run was stopped and has written its checkpoint or its results
            late = f"the run was stopped (exit status {error.code})"
            if record.state() != "done":
                record.end("lost")
                return Outcome(job.key, "lost", late)
        try:
            summary = load_summary(folder / "summary.json")
        except SummaryError as error:
            late = late or _said(error)
            record.end("failed", late, peak_memory=_peak_memory())
            return Outcome(job.key, "failed", late, peak_memory=_peak_memory())
        record.end("done", late, peak_memory=_peak_memory(), wall_time_s=summary["wall_time_s"])
        if late:
            _drop_replaced(folder)
        record.offer(job.training)
        return Outcome(job.key, "done", late, peak_memory=_peak_memory())


@dataclass(frozen=True)
class Preparation:
    """Prepare a dataset.

    Args:
        prepare: called with the overrides of a run that needs the dataset; returns a fingerprint of its
            content.
        wait: seconds to wait for another process that prepares it.
        progress: show how far the collection is.
    """

    prepare: Prepare
    wait: float = 24 * 3600.0
    progress: bool = False

    def __call__(self, job: Job) -> Outcome:
        """Run the preparation. Errors within it are returned, not raised."""
        with locked(job.store, f"data-{job.key}", self.wait) as free:
            if not free:
                return Outcome(job.key, "busy", f"another process prepares the data of {job.label}")
            start = time.time()
            try:
                with plain_log():
                    progress = str(self.progress).lower()
                    fingerprint = self.prepare([*job.overrides, f"output.progress={progress}"])
            except Exception as error:
                return Outcome(job.key, "failed", _said(error))
            except SystemExit as error:
                return Outcome(job.key, "lost", f"the preparation was stopped (exit status {error.code})")
            content = {"fingerprint": fingerprint, "overrides": list(job.overrides)}
            write_json(data_file(job.store, job.key), content | {"seconds": time.time() - start})
            return Outcome(job.key, "done", value=fingerprint, peak_memory=_peak_memory())


@dataclass(frozen=True)
class WithGuests:
    """Work in a process that first imports the user's modules whose choices the runs use.

    Args:
        work: the work. guests: the modules.
    """

    work: Callable[[Job], Outcome]
    guests: tuple[Guest, ...]

    def __call__(self, job: Job) -> Outcome:
        """Import the modules and do the work. An error of a module is returned, not raised."""
        from ctmrl_torchrl.training.plugins import load_guest

        try:
            for guest in self.guests:
                if guest.changed:
                    return Outcome(job.key, "failed", f"{guest.file} {_CHANGED}")
                load_guest(guest)
        except Exception as error:
            return Outcome(job.key, "failed", _said(error))
        return self.work(job)


def _drop_replaced(folder: Path) -> None:
    """Delete the run that this one has replaced, if the attempt itself did not come to that."""
    from ctmrl_torchrl.training.run_folder import drop_replaced

    with contextlib.suppress(OSError, ValueError):  # it takes space only
        drop_replaced(folder)


def _said(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
