"""``ctmrl table``: the summaries of finished runs, as text."""

from __future__ import annotations

import sys
from collections.abc import Sequence

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
    from ctmrl_torchrl.storage import expanded

    for argument in arguments:
        path = expanded(argument)
        try:
            file = path / "summary.json" if path.is_dir() else path
            there = file.is_file()
        except OSError as error:  # e.g. the name is too long
            raise SummaryError(f"{argument[:80]} cannot be read ({error.strerror or error}).") from error
        if not there:
            raise SummaryError(f"{argument} is neither a finished run's folder nor a summary.json.")
        sys.stdout.write(format_summary_table(load_summary(file)) + "\n")
    return 0
