"""Rank correlation of context noise and return over the runs of a study.

python examples/noise_and_returns.py results/studies/point_robots/results.json --env point_robot --without idaq

Reads ``results.json`` of a study's report. The noise of a run is the variance of the contexts of one task over
the variance between tasks, on training tasks; the return is that on unseen tasks. Prints a line per protocol.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr


def correlations(runs: list[dict[str, Any]]) -> dict[str, tuple[float, int]]:
    """Spearman's rank correlation and the number of runs, by protocol.

    Protocols that measure no noise, such as ``none``, are omitted.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        for protocol, noise in run.get("context_noise", {}).get("train", {}).items():
            pairs.setdefault(protocol, []).append((noise, run["returns"]["test"][protocol]))
    return {
        protocol: (float(spearmanr(values).statistic), len(values))
        for protocol, values in pairs.items()
        if len(values) > 2
    }


def main() -> None:
    """Read, correlate and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, help="results.json of a study's report")
    parser.add_argument("--env", help="runs in this environment only")
    parser.add_argument("--without", nargs="*", default=[], help="methods to leave out")
    options = parser.parse_args()
    try:
        known = json.loads(options.results.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{options.results} is no results.json of a study ({type(error).__name__}: {error})")
    runs = [
        run
        for run in known
        if options.env in (None, run["levels"].get("env"))
        and run["levels"].get("method") not in options.without
    ]
    for protocol, (value, number) in correlations(runs).items():
        print(f"{protocol}: {value:+.2f} ({number} runs)")


if __name__ == "__main__":
    main()
