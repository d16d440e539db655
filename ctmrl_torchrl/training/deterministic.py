"""``deterministic=true``: the same bits on every x86-64 processor, but slower; see ``docs/reliability.md``."""

from __future__ import annotations

import os
import sys

import torch

from ctmrl_torchrl.rules import ConfigError

#: variables that torch and MKL read once at startup; they select instructions that every x86-64 processor has
ENVIRONMENT = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"}
_ON_CUDA = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def check_deterministic(device: torch.device, threads: int) -> None:
    """Check that this process uses the same instructions on every processor.

    Args:
        device: device of the run. threads: number of CPU threads of torch.

    Raises:
        ConfigError: with the command to run, because torch and MKL select their instructions at startup.
    """
    wanted = ENVIRONMENT | (_ON_CUDA if device.type == "cuda" else {})
    missing = {name: value for name, value in wanted.items() if os.environ.get(name) != value}
    if missing or torch.backends.cpu.get_cpu_capability() != "DEFAULT":
        settings = " ".join(f"{name}={value}" for name, value in wanted.items())
        raise ConfigError(
            "config field deterministic: got True, allowed is false in a process that was started with other "
            f"instructions. Run: {settings} {_command()}"
        )
    if threads != 1:
        raise ConfigError(
            f"config field threads: got {threads}, allowed is 1 with deterministic=true: how sums are split "
            "over threads differs between machines."
        )


def use_deterministic_algorithms(deterministic: bool) -> None:
    """Make torch raise an error for nondeterministic operations."""
    torch.use_deterministic_algorithms(deterministic)
    if deterministic:
        torch.backends.cudnn.benchmark = False


def _command() -> str:
    name = os.path.basename(sys.argv[0] if sys.argv else "")
    of_ctmrl = name in ("", "-c", "-m", "cli.py", "ctmrl", "__main__.py")
    return f"{'ctmrl train' if of_ctmrl else f'python {sys.argv[0]}'} ... deterministic=true"
