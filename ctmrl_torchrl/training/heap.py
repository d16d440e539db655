"""The C library's heap: memory that an update has freed is what the next one needs."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for this process instead of handing it back to the system.

    An update allocates and frees the same large tensors over and over. By default glibc maps the largest of
    them anew each time, and the system clears every page at its first use: at the published sizes that has
    been a tenth to a quarter of an update's time. The process then holds what it needed at its peak.

    Returns:
        whether the C library has agreed; false where it is another one than glibc, which is left as it is.

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
