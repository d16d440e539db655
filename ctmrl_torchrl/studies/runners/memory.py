"""Available memory of this machine or its container."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["available_memory", "cpu_count"]

_GROUP = Path("/sys/fs/cgroup")


def available_memory() -> int | None:
    """Bytes available to a new process; ``None`` if unknown."""
    known = [each for each in (_of_machine(), _of_container(_GROUP)) if each is not None]
    return min(known, default=None)


def _of_machine(file: Path = Path("/proc/meminfo")) -> int | None:
    try:
        lines = file.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_container(folder: Path) -> int | None:
    for limit, used in (("memory.max", "memory.current"),
                        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):  # fmt: skip
        try:
            most, now = ((folder / name).read_text(encoding="ascii").strip() for name in (limit, used))
        except OSError:
            continue
        if most.isdecimal() and int(most) < 2**60:
            return max(int(most) - int(now) + _reclaimable(folder / limit), 0)
    return None


def _reclaimable(limit: Path) -> int:
    """Size of the file cache, which counts as used but is released on demand."""
    try:
        lines = (limit.parent / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.split()[0] == "inactive_file")


def cpu_count() -> int:
    """Number of processors available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
