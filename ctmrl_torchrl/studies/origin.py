"""The origin of results: commands, commit, versions and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ctmrl_torchrl.evaluation import package_versions
from ctmrl_torchrl.studies.gather import StudyResults

__all__ = ["Origin", "commit_of_package", "machine", "origin_of"]


@dataclass(frozen=True)
class Origin:
    """The information needed to reproduce the results.

    Args:
        command: the command of the study. commands: ``{run: command}``.
        commit: commit of the checkout, marked if files differ from it; ``None`` for an installed package.
        versions: ``{package: version}`` of the runs.
        machine: ``{property: value}`` of the machine that wrote the report.
        core_hours: core hours of the finished runs.
    """

    command: str
    commands: dict[str, str]
    commit: str | None
    versions: dict[str, str]
    machine: dict[str, str]
    core_hours: float


def origin_of(results: StudyResults) -> Origin:
    """The origin of a study's results."""
    done = results.done()
    counted: dict[str, Counter[str]] = {}
    for each in done:
        for package, version in each.finished()["versions"].items():
            counted.setdefault(package, Counter())[version] += 1
    return Origin(
        command=f"ctmrl study run {results.config.name}.yaml",
        commands={each.run.label: run_command(each.run.overrides) for each in results.runs},
        commit=commit_of_package(),
        versions={package: ", ".join(sorted(found)) for package, found in counted.items()},
        machine=machine(),
        core_hours=sum(each.finished()["wall_time_s"] for each in done) / 3600,
    )


def run_command(overrides: tuple[str, ...]) -> str:
    """The command of one run.

    Examples:
        >>> run_command(("preset=smoke", "seed=0"))
        'ctmrl train preset=smoke seed=0'
        >>> print(run_command(("tags=[a, b]",)))
        ctmrl train 'tags=[a, b]'
    """
    return f"ctmrl train {shlex.join(overrides)}".rstrip()


def commit_of_package(folder: Path = Path(__file__).parents[2]) -> str | None:
    """The commit of the package; ``None`` if it is not a checkout."""
    if not (folder / ".git").exists():
        return None
    try:
        name = _git(folder, "rev-parse", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{name} with changes" if changed else name


def machine() -> dict[str, str]:
    """Description of this machine, as far as the system provides it."""
    found = {"system": platform.platform(), "processor": _processor(), "cores": str(os.cpu_count())}
    return found | {
        f"{name} here": version for name, version in package_versions().items() if name == "torch"
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=20
    )
    return finished.stdout.strip()
