"""Command lines: how a run records its own, and how one is checked before the work."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from ctmrl_torchrl.guests import guests_of, plugin_of
from ctmrl_torchrl.training.compose import compose_node
from ctmrl_torchrl.training.sweep import check_sweep

#: overrides that only set locations, processes or console output and do not affect results
_ELSEWHERE = ("run_dir=", "output.", "resume=", "overwrite=", "dataset.root=", "dataset.collector.")


def recorded_command(program: str, overrides: Sequence[str]) -> str:
    """The command line that a summary records, without machine-specific paths and quoted for a shell.

    Files of the user's own whose choices it names come first, as ``--plugin FILE``.

    Examples:
        >>> recorded_command("ctmrl train", ["env=point_robot", "run_dir=here"])
        'ctmrl train env=point_robot'
        >>> print(recorded_command("ctmrl train", ["evaluation.protocols=[np, codes]"]))
        ctmrl train 'evaluation.protocols=[np, codes]'
    """
    kept = [item for item in overrides if not item.startswith(_ELSEWHERE)]
    named = {word for item in kept for word in re.findall(r"[^\s=,\[\]'\"]+", item)}
    plugins = [plugin for plugin in map(plugin_of, guests_of(named)) if plugin is not None]
    options = [word for plugin in plugins for word in ("--plugin", plugin)]
    return f"{program} {shlex.join([*options, *kept])}".rstrip()


def check_command_line(arguments: Sequence[str]) -> None:
    """Compose every job that a Hydra command line describes, so that errors are caught early and explained.

    Args:
        arguments: overrides, and options such as ``-m`` or ``--cfg job``.

    Raises:
        ConfigError: as :func:`~ctmrl_torchrl.training.compose.compose_node`, or if two jobs would share a folder.

    Examples:
        >>> check_command_line(["preset=smoke", "seed=0,1", "-m"])
        >>> check_command_line(["presset=smoke"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.rules.ConfigError: config field presset: there is no such field. ...
    """
    options = {argument for argument in arguments if argument.startswith("-")}
    overrides = [argument for argument in arguments if argument not in options]
    if {"-m", "--multirun"} & options:
        check_sweep(overrides)
    elif not options:
        compose_node(overrides)
    else:  # the argument of an option is not an override
        compose_node([argument for argument in overrides if "=" in argument])
