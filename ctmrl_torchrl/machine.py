"""What numbers depend on beside the command and the versions: the processor that computed them."""

from __future__ import annotations

import contextlib
import platform
from pathlib import Path

import torch


def processor() -> str:
    """Return the name of this machine's processor, as exactly as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor_facts() -> dict[str, str]:
    """Name of the processor, and the instructions that torch uses on it.

    The same command gives the same bits where both are the same, and the versions of the packages are.

    Examples:
        >>> sorted(processor_facts())
        ['processor', 'torch_cpu_capability']
    """
    return {"processor": processor(), "torch_cpu_capability": torch.backends.cpu.get_cpu_capability()}
