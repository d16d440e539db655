"""A folder lock that is released when its process ends and that records its holder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # folders are not locked on non-POSIX systems
    fcntl = None

LOCK_FILE = ".ctmrl-run.lock"


class FolderLock:
    """An exclusive lock on a folder, held until :meth:`release` or until the process ends for any reason.

    The system releases the lock of a killed process, so locks never become stale. Two locks in the same
    process also exclude each other.

    Args:
        folder (Path): must exist.

    Examples:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> lock, other = FolderLock(folder), FolderLock(folder)
        >>> lock.acquire(), other.acquire()
        (True, False)
        >>> str(os.getpid()) in other.holder()
        True
        >>> lock.release()
        >>> other.acquire(), other.release(), list(folder.iterdir())
        (True, None, [])
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / LOCK_FILE
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Acquire the lock if it is free and return whether it is now held.

        Raises:
            OSError: if the lock file cannot be created, or is a link.
        """
        while not self.held:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            if not _lock(descriptor):
                os.close(descriptor)
                return False
            if not _same_file(descriptor, self.file):  # released and deleted in the meantime
                os.close(descriptor)
                continue
            said = {
                "pid": os.getpid(),
                "machine": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
                "command": " ".join(sys.argv)[:200],
            }
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(said).encode(), 0)
            self._descriptor = descriptor
            self._stay_behind_at_forks()
        return True

    def release(self) -> None:
        """Release the lock and delete its file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                if _same_file(self._descriptor, self.file):  # false if the folder was moved
                    self.file.unlink()
            self._forget()

    def holder(self) -> str:
        """Describe the holder of the lock: process, machine, start time and command."""
        try:
            said = json.loads(self.file.read_text(encoding="utf-8"))
            who = f"process {said['pid']} on {said['machine']} since {said['since']}"
            return f"{who}, which runs {said['command']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _stay_behind_at_forks(self) -> None:
        """Close the lock in a forked worker, so that a worker that outlives its parent does not keep it."""
        itself = weakref.ref(self)

        def leave() -> None:
            lock = itself()
            if lock is not None:
                lock._forget()

        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=leave)

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self._forget()


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a network file system without locks: run unlocked rather than not at all
        return True
    return True


def _same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False
