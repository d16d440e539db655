"""``ctmrl study``: grids of runs, their tables and their page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ctmrl_torchrl.studies.usage import HELP, asks_for_help


def main(arguments: Sequence[str]) -> int:
    """Run one action on a study; see :data:`ctmrl_torchrl.studies.usage.HELP`.

    Args:
        arguments: action, study and changes.

    Returns:
        the exit status.
    """
    if asks_for_help(arguments):
        sys.stdout.write(HELP + "\n")
        return 0
    from ctmrl_torchrl.progress import plain_log
    from ctmrl_torchrl.studies.command import study_command

    with plain_log():
        answer = study_command(arguments)
    sys.stdout.write(answer.rstrip() + "\n")
    return 0
