"""The console command ``ctmrl``: train, collect and tables. Heavy modules are imported on demand."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module

from ctmrl_torchrl.stopping import Stopped, stop_signals

#: module and description of each command
COMMANDS: dict[str, tuple[str, str]] = {
    "train": (
        "ctmrl_torchrl.commands.train:main",
        "collect data if needed, meta-train, adapt to unseen tasks, write summary and figures",
    ),
    "collect": (
        "ctmrl_torchrl.commands.collect:main",
        "collect the offline dataset of an environment family and report its contents",
    ),
    "study": ("ctmrl_torchrl.commands.study:main", "plan, run, watch and report a grid of runs"),
    "table": ("ctmrl_torchrl.commands.table:main", "print the summary of one or more runs"),
}

_USAGE = """usage: ctmrl [--plugin MODULE_OR_FILE ...] COMMAND [OPTIONS | NAME=VALUE ...]

{commands}

  --plugin M    import a module or a .py file first, which can register choices; may be repeated
  --version     print the version
  --help        print this; ctmrl COMMAND --help prints the choices and fields of a command

examples:
  ctmrl train                                        Point-Robot on the CPU, minutes
  ctmrl train env=half_cheetah_vel preset=cpu seed=1
  ctmrl --plugin my_family.py train env=my_family
"""


class UsageError(ValueError):
    """The command line is invalid."""


def usage() -> str:
    """The output of ``ctmrl --help``."""
    lines = [f"  {name:9} {text}" for name, (_, text) in COMMANDS.items()]
    return _USAGE.format(commands="\n".join(lines))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status.

    User errors are reported in one or two lines without a traceback; ``HYDRA_FULL_ERROR=1`` shows it.

    Examples:
        >>> main(["trian"])
        2
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with stop_signals():
            return _run(arguments)
    except Stopped as stopped:
        sys.stderr.write(f"ctmrl: {stopped}\n")
        return stopped.number + 128
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not _is_users(error):
            raise
        sys.stderr.write(f"ctmrl: {error}\n")
        return 2


def _is_users(error: Exception) -> bool:
    """Whether an error is a user error."""
    if isinstance(error, UsageError):
        return True
    from ctmrl_torchrl.errors import USER_ERRORS

    return isinstance(error, USER_ERRORS)


def _run(arguments: list[str]) -> int:
    plugins = []
    while arguments and arguments[0].startswith("-"):
        option = arguments.pop(0)
        if option in ("-h", "--help"):
            sys.stdout.write(usage())
            return 0
        if option == "--version":
            from ctmrl_torchrl import __version__

            sys.stdout.write(f"ctmrl_torchrl {__version__}\n")
            return 0
        name, given, value = option.partition("=")
        if name != "--plugin":
            raise UsageError(f"unknown option {option}; see ctmrl --help.")
        if not value and (given or not arguments):
            raise UsageError("--plugin needs a module or the path of a .py file.")
        plugins.append(value or arguments.pop(0))
    if not arguments:
        sys.stdout.write(usage())
        return 0
    before = len(plugins)
    command, *rest = arguments
    if command not in COMMANDS:
        from ctmrl_torchrl.registry import nearest

        raise UsageError(
            f"unknown command {command!r}.{nearest(command, COMMANDS)} Known: {', '.join(COMMANDS)}."
        )
    given = [index for index, each in enumerate(rest) if each.partition("=")[0] == "--plugin"]
    for at in reversed(given):  # also after the command
        _, named, value = rest.pop(at).partition("=")
        if not value and (named or at == len(rest)):
            raise UsageError("--plugin needs a module or the path of a .py file.")
        plugins.insert(before, value or rest.pop(at))
    if plugins:
        from ctmrl_torchrl.training.plugins import load_plugin

        for plugin in plugins:
            load_plugin(plugin)
    return _entry(command)(rest)


def _entry(command: str) -> Callable[[list[str]], int]:
    module, _, attribute = COMMANDS[command][0].partition(":")
    return getattr(import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
