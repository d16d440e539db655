"""Checks a sweep before its first job: every job needs a separate folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import product

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_node, explained

#: the field that holds the name of a group's choice, where the group's own name is that of a section
_FIELD_OF_GROUP = {
    "dataset": "dataset.recipe",
    "encoder_schema": "encoder.name",
    "policy_loss": "policy_loss.name",
    "representation_schema": "representation.name",
}


def swept_overrides(overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of every job of a sweep.

    Raises:
        ConfigError: if a value cannot be read.

    Examples:
        >>> swept_overrides(["seed=0,1", "env=point_robot"])
        [['seed=0', 'env=point_robot'], ['seed=1', 'env=point_robot']]
    """
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise ConfigError(explained(error)) from error
    values = [
        [f"{each.get_key_element()}={value}" for value in each.sweep_string_iterator()]
        if each.is_sweep_override()
        else [text]
        for each, text in zip(parsed, overrides, strict=True)
    ]
    return [list(job) for job in product(*values)]


def check_sweep(overrides: Sequence[str]) -> None:
    """Reject a sweep in which two jobs would write to the same run folder.

    Raises:
        ConfigError: with the swept fields that are missing from the folder's name.
    """
    jobs = swept_overrides(overrides)
    folders: dict[str, list[str]] = {}
    for job in jobs:
        folder = str(compose_node(job).run_dir)
        if job in folders.values():
            raise ConfigError(f"{' '.join(job)}: this job occurs twice in the sweep; give every value once.")
        if folder in folders:
            differing = sorted(
                item.partition("=")[0] for item in set(job) ^ set(folders[folder]) if "=" in item
            )
            raise ConfigError(
                f"run_dir: the jobs of this sweep that differ in {', '.join(dict.fromkeys(differing))} would "
                f"share the folder {folder}. Include the swept fields in its name: "
                f"'run_dir={_told_apart(folder, jobs)}'."
            )
        folders[folder] = job


def _told_apart(folder: str, jobs: Sequence[Sequence[str]]) -> str:
    """A name for the run folders with every field that the jobs differ in."""
    varied = [{job[position] for job in jobs} for position in range(len(jobs[0]))]
    fields = [next(iter(values)).partition("=")[0].lstrip("+") for values in varied if len(values) > 1]
    fields = [_FIELD_OF_GROUP.get(name, name) for name in dict.fromkeys(fields)]
    parts = [f"{name.removesuffix('.name').rsplit('.', 1)[-1]}${{{name}}}" for name in fields]
    beginning = re.sub(r"-?seed[0-9]+$", "", folder)
    return beginning + ("" if beginning.endswith("/") else "-") + "-".join(parts)
