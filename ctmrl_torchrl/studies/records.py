"""Records of runs: a small JSON file next to each run's folder, and a lock while a process works on it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from filelock import FileLock, Timeout

from ctmrl_torchrl.machine import processor
from ctmrl_torchrl.studies.files import read_json, write_json
from ctmrl_torchrl.studies.jobs import Job

__all__ = ["RunRecord", "data_file", "data_fingerprint", "locked", "run_folder", "trained_run"]

#: number of failures after which a run is recorded as failed and not retried
TRIES = 2


def run_folder(store: str | Path, key: str) -> Path:
    """Folder of a run: summary, configuration, metrics, checkpoints, figures."""
    return Path(store) / "runs" / key


def data_file(store: str | Path, key: str) -> Path:
    """The file with a dataset's fingerprint from its preparation."""
    return Path(store) / "datasets" / f"{key}.json"


def data_fingerprint(store: str | Path, key: str) -> str | None:
    """A dataset's fingerprint; ``None`` until it is prepared."""
    fingerprint = (read_json(data_file(store, key)) or {}).get("fingerprint")
    return fingerprint if isinstance(fingerprint, str) else None


def trained_run(store: str | Path, training: str) -> Path | None:
    """The folder of a finished run that trained this agent and still has its checkpoint, if there is one."""
    key = (read_json(_training_file(store, training)) or {}).get("run") if training else None
    if not isinstance(key, str):
        return None
    folder = run_folder(store, key)
    return folder if (folder / "summary.json").is_file() and _checkpoint(folder).is_file() else None


def _training_file(store: str | Path, training: str) -> Path:
    return Path(store) / "trainings" / f"{training}.json"


def _checkpoint(folder: Path) -> Path:
    return folder / "checkpoints" / "last.pt"


@contextmanager
def locked(store: str | Path, key: str, wait: float = 0.0) -> Iterator[bool]:
    """Hold the lock of a run or dataset; yields whether it was acquired within ``wait`` seconds.

    The system releases the lock when its process ends for any reason.
    """
    folder = Path(store) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{key}.lock")
    try:
        lock.acquire(timeout=wait, poll_interval=0.05)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


class RunRecord:
    """The attempts at one run. Every change is written immediately and atomically.

    Args:
        store: folder of the study's records and runs.
        key: identity of the run.
    """

    def __init__(self, store: str | Path, key: str) -> None:
        self.store, self.key = Path(store), key
        self.file = self.store / "records" / f"{key}.json"
        content = read_json(self.file) or {}
        attempts = content.get("attempts")
        self.attempts: list[dict[str, Any]] = cast(Any, attempts) if _are_attempts(attempts) else []
        self.about: dict[str, Any] = {name: value for name, value in content.items() if name != "attempts"}

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return run_folder(self.store, self.key)

    @property
    def updates(self) -> int | None:
        """The updates in the run's checkpoint; ``None`` without a readable one."""
        from ctmrl_torchrl.training.checkpoint import CheckpointError, load_checkpoint

        try:
            return int(load_checkpoint(_checkpoint(self.folder), {})["update"])
        except (CheckpointError, KeyError, TypeError, ValueError):
            return None

    def start(self, job: Job) -> Mapping[str, Any]:
        """Begin an attempt; an earlier attempt without an end counts as lost."""
        for attempt in self.attempts:
            if attempt["state"] == "started":
                attempt["state"] = "lost"
        mark = _mark(_checkpoint(self.folder))
        afresh = _starts_afresh(self.attempts[-1] if self.attempts else None, mark)
        trained = None if mark is not None or afresh else trained_run(self.store, job.training)
        attempt = {
            "state": "started",
            "resumed": (mark is not None and not afresh) or trained is not None,
            "trained_by": None if trained is None else trained.name,
            "afresh": afresh,
            "checkpoint": mark,
            "host": socket.gethostname(),
            "processor": processor(),
            "pid": os.getpid(),
            "started": time.time(),
        }
        self.attempts.append(attempt)
        self.about |= {"label": job.label, "overrides": list(job.overrides)}
        self._write()
        return attempt

    def end(self, state: str, error: str = "", **numbers: float) -> None:
        """End the latest attempt; one that is done may have an error that followed its results."""
        attempt = self.attempts[-1]
        attempt |= {"state": state, "seconds": time.time() - attempt["started"], **numbers}
        if error:
            attempt["error"] = error
        self._write()

    def settle(self, training: str) -> None:
        """Complete what an attempt that ended after the run's results were written has left undone."""
        if not self.settled:
            self.attempts[-1]["state"] = "done"
            self._write()
        self.offer(training)

    def offer(self, training: str) -> None:
        """Let runs that train the same agent resume from this run's checkpoint."""
        if training and _checkpoint(self.folder).is_file() and trained_run(self.store, training) is None:
            write_json(_training_file(self.store, training), {"run": self.key})

    def give_up(self, error: str) -> None:
        """Record a run as failed after its processes ended without an outcome."""
        self.about["given_up"] = error
        self._write()

    def forget_failures(self) -> None:
        """Allow a failed run to be retried."""
        for attempt in self.attempts:
            if attempt["state"] == "failed":
                attempt["state"] = "failed earlier"
        self.about.pop("given_up", None)
        self._write()

    def state(self) -> str:
        """``done``, ``failed``, ``running``, ``interrupted`` or ``waiting``."""
        if (self.folder / "summary.json").is_file():
            return "done"
        if "given_up" in self.about or sum(each["state"] == "failed" for each in self.attempts) >= TRIES:
            return "failed"
        if not self.attempts:
            return "waiting"
        if self.attempts[-1]["state"] != "started":
            return "waiting"
        with locked(self.store, self.key) as free:
            return "interrupted" if free else "running"

    @property
    def settled(self) -> bool:
        """Whether the latest attempt at a run with results has come to its end."""
        return not self.attempts or self.attempts[-1]["state"] == "done"

    @property
    def error(self) -> str:
        """The latest error."""
        errors = [each["error"] for each in self.attempts if each.get("error")]
        return self.about.get("given_up") or (errors[-1] if errors else "")

    @property
    def seconds(self) -> float:
        """Total time of all sessions of the run and of the training it inherited; for an unfinished run, the
        known part."""
        walls = (each["wall_time_s"] for each in self.attempts if "wall_time_s" in each)
        return max([self.own_seconds, *walls])

    @property
    def own_seconds(self) -> float:
        """Total time of the attempts that came to an end."""
        return sum(each.get("seconds", 0.0) for each in self.attempts)

    @property
    def inherits(self) -> bool:
        """Whether the run resumed from the checkpoint of another run, which trained the same agent."""
        inherits = False
        for each in self.attempts:
            inherits = each.get("trained_by") is not None or (inherits and each["resumed"])
        return inherits

    def _write(self) -> None:
        write_json(self.file, {**self.about, "attempts": self.attempts})


def _mark(checkpoint: Path) -> int | None:
    """What tells a checkpoint from the next one in its place; ``None`` if there is none."""
    return checkpoint.stat().st_mtime_ns if checkpoint.exists() else None


def _starts_afresh(last: Mapping[str, Any] | None, mark: int | None) -> bool:
    """Whether the next attempt resumes from nothing, because resuming failed.

    An attempt that was lost before its own first checkpoint leaves that to the next one.
    """
    if last is None:
        return False
    if last["state"] == "failed":
        return last["resumed"]
    return last["state"] == "lost" and last.get("afresh") is True and mark in (None, last.get("checkpoint"))


def _are_attempts(value: Any) -> bool:
    """Whether a file's entry is a list of attempts; a damaged record counts as none."""
    needed = {"state": str, "resumed": bool, "started": (int, float)}
    others = {"seconds": (int, float), "wall_time_s": (int, float), "error": str}
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and all(isinstance(each.get(name), kind) for name, kind in needed.items())
        and all(isinstance(each[name], kind) for name, kind in others.items() if name in each)
        for each in value
    )
