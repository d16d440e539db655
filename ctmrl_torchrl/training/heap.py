"""Keeps freed memory in the C library's heap, because the next update needs it again."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for this process instead of returning it to the system.

    Every update allocates and frees the same large tensors. By default, glibc maps the largest ones anew each
    time and the system clears every page on first use. At the published sizes this took 10 to 25% of an
    update's time. With this setting, the process keeps its peak memory.

    Returns:
        True if the C library accepted the setting; False if it is not glibc, which is left unchanged.

    Examples:
        >>> keep_freed_memory() in (True, False)
        True
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
