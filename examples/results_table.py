"""Write the table of results between the markers of docs/results.md, from the JSON files in results/.

python examples/results_table.py
"""

from __future__ import annotations

from pathlib import Path

from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.results_table import results_table, write_between_marks

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Read the results, format the table and replace it in the page."""
    table = results_table(ROOT / "results")
    try:
        write_between_marks(ROOT / "docs" / "results.md", table)
    except StudyError as error:
        raise SystemExit(str(error)) from error
    print(table)


if __name__ == "__main__":
    main()
