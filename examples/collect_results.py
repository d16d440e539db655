"""Aggregate the runs of several seeds into one small JSON file: mean and 95 % bootstrap interval over seeds.

python examples/collect_results.py results/point_robot-ctmrl.json runs/point_robot-repo/ctmrl-*-cpu-seed*

With --keep results/summaries, the program also writes rounded copies of the summaries there. They can replace run
folders later, when more seeds have been run elsewhere.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ctmrl_torchrl.studies.results import collect_results, keep_summaries, read_summaries, write_results


def main() -> None:
    """Read the summaries, aggregate them and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="run folders, or kept summaries, that differ in the seed only"
    )
    parser.add_argument("--keep", type=Path, help="folder for rounded copies of the summaries")
    arguments = parser.parse_args()
    try:
        summaries = read_summaries(arguments.runs)
        result = collect_results(summaries)
        write_results(result, arguments.output)
        if arguments.keep is not None:
            keep_summaries(summaries, arguments.keep)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    for split, protocols in result["returns"].items():
        for name, entry in protocols.items():
            interval = "" if entry["ci95"] is None else "[{:.3f}, {:.3f}]".format(*entry["ci95"])
            print(f"{split:6} {name:8} {entry['mean']:8.3f}  {interval}  {len(summaries)} seeds")


if __name__ == "__main__":
    main()
