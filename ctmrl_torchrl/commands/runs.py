"""Starts runs from a list of overrides, for the command line and for other programs; each gets its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from ctmrl_torchrl.training.commands import recorded_command
from ctmrl_torchrl.training.compose import compose_node, to_config
from ctmrl_torchrl.training.experiment import run_experiment, run_seeds


def run_node(node: DictConfig, command: str | None = None) -> list[dict[str, Any]]:
    """Run a composed configuration: one experiment, or several seeds as one stacked computation."""
    if node.seeds is None:
        return [run_experiment(to_config(node), command, _write_page)]
    seeds = [OmegaConf.merge(node, {"seed": seed, "seeds": None}) for seed in node.seeds]
    return run_seeds([to_config(cast(DictConfig, each)) for each in seeds], command, _write_page)


def run(overrides: Sequence[str] = (), *, command: str | None = None) -> dict[str, Any]:
    """Run one experiment in the same way as ``ctmrl train OVERRIDES`` and return its summary.

    Args:
        overrides: as on the command line: ``["env=point_robot", "preset=smoke", "schedule.updates=100"]``.
        command: the command to record in the summary. Defaults to the command line with these overrides.

    Returns:
        the contents of ``summary.json``.

    Raises:
        ConfigError: if a name or value is not allowed, or if ``seeds`` is set.
    """
    config = to_config(compose_node(overrides))
    return run_experiment(config, command or recorded_command("ctmrl train", overrides), _write_page)


def _write_page(folder: Path) -> Path:
    """Write the page of a run. Its module is imported then, since it loads Matplotlib."""
    from ctmrl_torchrl.studies.page import write_run_page

    return write_run_page(folder)
