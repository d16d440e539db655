"""``ctmrl train``: one experiment, several seeds, or a sweep."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ctmrl_torchrl.commands.fields import help_text
from ctmrl_torchrl.places import config_folder


def main(arguments: Sequence[str], program: str = "ctmrl train") -> int:
    """Train and meta-test according to the overrides and print the summary table.

    Args:
        arguments: overrides and options. program: name of the command, for help and records.

    Returns:
        the exit status.
    """
    arguments = list(arguments)
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(help_text(config_folder(), program))
        return 0
    options = [argument for argument in arguments if argument.startswith("-")]
    if not options:
        return _run_once(arguments, program)
    return _run_with_hydra(arguments, program)


def _run_once(overrides: list[str], program: str) -> int:
    from ctmrl_torchrl.commands.runs import run_node
    from ctmrl_torchrl.evaluation import format_summary_table
    from ctmrl_torchrl.training.commands import recorded_command
    from ctmrl_torchrl.training.compose import compose_node

    node = compose_node(overrides)
    for summary in run_node(node, recorded_command(program, overrides)):
        sys.stdout.write(format_summary_table(summary) + "\n")
    return 0


def _run_with_hydra(arguments: list[str], program: str) -> int:
    """Sweeps (``-m``) and Hydra's other options (``--cfg job``)."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import DictConfig

    from ctmrl_torchrl.commands.runs import run_node
    from ctmrl_torchrl.errors import told_plainly
    from ctmrl_torchrl.evaluation import format_summary_table
    from ctmrl_torchrl.training.commands import recorded_command
    from ctmrl_torchrl.training.compose import check_overrides, register_configs, with_home_quoted
    from ctmrl_torchrl.training.sweep import check_sweep

    register_configs()
    arguments = with_home_quoted(arguments)
    overrides = [argument for argument in arguments if not argument.startswith("-") and "=" in argument]
    check_overrides(overrides)
    # Hydra reads overrides only where they stand together
    arguments = [argument for argument in arguments if argument not in overrides] + overrides
    if {"-m", "--multirun"} & set(arguments):
        check_sweep(overrides)

    @hydra.main(version_base="1.3", config_path=str(config_folder()), config_name="config")
    def job(config: DictConfig) -> None:
        chosen = list(HydraConfig.get().overrides.task)
        with told_plainly():
            for summary in run_node(config, recorded_command(program, chosen)):
                sys.stdout.write(format_summary_table(summary) + "\n")

    before = sys.argv
    try:
        sys.argv = [program.split()[0], *arguments]
        job()
    finally:
        sys.argv = before
    return 0
