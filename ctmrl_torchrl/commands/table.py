"""``ctmrl table``: the summaries of finished runs, as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_USAGE = "usage: ctmrl table RUN_DIR_OR_SUMMARY [...]\n\nPrint the summary of one or more finished runs.\n"


def main(arguments: Sequence[str]) -> int:
    """Print the table of each run.

    Args:
        arguments: run folders or ``summary.json`` files.

    Returns:
        the exit status.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        sys.stdout.write(_USAGE)
        return 0
    from ctmrl_torchrl.evaluation import format_summary_table, load_summary
    from ctmrl_torchrl.evaluation.summary_contract import SummaryError

    for argument in arguments:
        path = Path(argument).expanduser()
        file = path / "summary.json" if path.is_dir() else path
        if not file.is_file():
            raise SummaryError(f"{argument} is neither a finished run's folder nor a summary.json.")
        sys.stdout.write(format_summary_table(load_summary(file)) + "\n")
    return 0
