"""The origin of results: commands, commit, versions and machine."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctmrl_torchrl.evaluation import package_versions
from ctmrl_torchrl.guests import guests_of, names_in, plugin_of
from ctmrl_torchrl.machine import processor
from ctmrl_torchrl.studies.gathered import StudyResults
from ctmrl_torchrl.training.commands import recorded_command

__all__ = ["Origin", "commit_of_package", "machine", "origin_of", "written_with"]


@dataclass(frozen=True)
class Origin:
    """The information needed to reproduce the results.

    Args:
        command: the command of the study. commands: ``{run: command}``.
        commit: commit of the checkout that wrote the report, marked if files differ from it; ``None`` for an
            installed package.
        versions: ``{package: version}`` of the runs.
        machine: ``{property: value}`` of the machine that wrote the report.
        core_hours: core hours of the finished runs; levels that are the same runs count once, as does a
            training that several runs share.
        data: ``{fingerprint: what they are}`` of the finished runs; equal data have equal fingerprints.
        reports: the reports that the numbers are from, if these are not the runs of one study.
    """

    command: str
    commands: dict[str, str]
    commit: str | None
    versions: dict[str, str]
    machine: dict[str, str]
    core_hours: float
    data: dict[str, str]
    reports: tuple[str, ...] = ()


def origin_of(results: StudyResults) -> Origin:
    """The origin of a study's results."""
    done = results.done()
    counted: dict[str, Counter[str]] = {}
    for each in done:
        for package, version in each.finished()["versions"].items():
            counted.setdefault(package, Counter())[version] += 1
    return Origin(
        command=study_command(results),
        commands={
            each.run.label: recorded_command("ctmrl train", each.run.overrides) for each in results.runs
        },
        commit=commit_of_package(),
        versions={package: ", ".join(sorted(found)) for package, found in counted.items()},
        machine=machine(),
        core_hours=sum({each.key: each.seconds for each in done}.values()) / 3600,
        data={each.fingerprint: _what_data(each.finished()) for each in done if each.fingerprint is not None},
    )


def _what_data(summary: Mapping[str, Any]) -> str:
    data = summary["dataset"]
    return f"{summary['env']}, tasks {data['tasks']}, recipe {data['recipe']}, seed {data['seed']}"


def study_command(results: StudyResults) -> str:
    """The command of the study, with the user's files whose choices its runs use."""
    guests = guests_of({name for each in results.runs for name in names_in(each.run.configuration)})
    plugins = [plugin for plugin in map(plugin_of, guests) if plugin is not None]
    options = [word for plugin in plugins for word in ("--plugin", plugin)]
    return shlex.join(["ctmrl", *options, "study", "run", f"{results.config.name}.yaml"])


def written_with(commit: str | None) -> dict[str, str]:
    """What wrote a page; its runs may have been made with another version."""
    return {"written with": "an installed package" if commit is None else f"commit {commit}"}


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
    found = {"system": platform.platform(), "processor": processor(), "cores": str(os.cpu_count())}
    return found | {
        f"{name} here": version for name, version in package_versions().items() if name == "torch"
    }


def _git(folder: Path, *arguments: str) -> str:
    finished = subprocess.run(
        ["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True, timeout=20
    )
    return finished.stdout.strip()
