from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from ctmrl_torchrl.training.heap import keep_freed_memory

PROGRAM = """
import resource, sys, torch
from ctmrl_torchrl.training.heap import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(15):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_it_says_whether_it_could():
    assert keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.ci
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another one")
def test_kept_memory_is_not_cleared_by_the_system_again():
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True).stdout)
        for how in ("keep", "leave")
    }
    assert faults["keep"] < 100 < faults["leave"]
