"""One process at a time in a folder: a lock that ends with its process, and says whose it is."""

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
except ImportError:  # not a POSIX system: folders are not locked there
    fcntl = None

LOCK_FILE = ".ctmrl-run.lock"


class FolderLock:
    """An exclusive lock on a folder, held until :meth:`release` or the end of the process, however it ends.

    The system releases the lock of a process that was killed, so that there are no stale locks. Two locks of
    one process exclude each other, too.

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
        """Take the lock if it is free; returns whether it is held now.

        Raises:
            OSError: if the lock's file cannot be made, or is a link.
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
        """Give the lock back, and delete its file."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                if _same_file(self._descriptor, self.file):  # not so when the folder was moved
                    self.file.unlink()
            self._forget()

    def holder(self) -> str:
        """Who holds the lock, in words: process, machine, since when, its command."""
        try:
            said = json.loads(self.file.read_text(encoding="utf-8"))
            who = f"process {said['pid']} on {said['machine']} since {said['since']}"
            return f"{who}, which runs {said['command']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"

    def _stay_behind_at_forks(self) -> None:
        """A forked worker shares the lock: one that outlives its parent must not keep it."""
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
    except OSError:  # a network folder without locks: better unlocked than unusable
        return True
    return True


def _same_file(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(file, follow_symlinks=False))
    except FileNotFoundError:
        return False
