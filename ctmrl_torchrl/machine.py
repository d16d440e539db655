"""The processor, on which results depend in addition to the command and the versions."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import shutil
from pathlib import Path

import torch


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor as reported by the system."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def processor_facts() -> dict[str, str]:
    """Name of the processor and the instruction set that torch uses on it.

    The same command gives bit-identical results if both and the package versions are equal.

    Examples:
        >>> sorted(processor_facts())
        ['processor', 'torch_cpu_capability']
    """
    return {"processor": processor(), "torch_cpu_capability": torch.backends.cpu.get_cpu_capability()}


def device_name(device: torch.device) -> str:
    """``cpu``, or the name of a GPU.

    Examples:
        >>> device_name(torch.device("cpu"))
        'cpu'
    """
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def has_compiler() -> bool:
    """Whether there is a C++ compiler for ``torch.compile``: the one that ``CXX`` names, or a usual one."""
    named = os.environ.get("CXX")
    names = [named] if named else ["c++", "g++", "clang++", "cl"]
    return any(shutil.which(name) for name in names)
