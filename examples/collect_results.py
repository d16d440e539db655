"""Aggregate the runs of several seeds into one small JSON file: mean and 95 % bootstrap interval over seeds.

python examples/collect_results.py results/point_robot-ctmrl.json runs/point_robot-repo/ctmrl-*-cpu-seed*

With --keep results/summaries, rounded copies of the runs' summaries are put there too; they can stand in for
run folders later, when more seeds have been run elsewhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ctmrl_torchrl.evaluation import aggregate_seeds, load_summary


def rounded(value):
    """Four decimals are plenty, and keep the files small and readable."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    return [rounded(entry) for entry in value] if isinstance(value, list) else value


def keep(summaries: list[dict], folder: Path) -> None:
    """One compact file per run, named after its setting and seed."""
    folder.mkdir(parents=True, exist_ok=True)
    for summary in summaries:
        names = ("env", "method", "policy_loss", "preset")
        parts = [summary[name] for name in names] + [summary["dataset"]["tasks"]]
        file = folder / f"{'-'.join(parts)}-seed{summary['seed']}.json"
        kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else summary
        if kept["command"] != summary["command"]:
            raise SystemExit(
                f"{file} holds the run of another command ({kept['command']}); keep this one elsewhere."
            )
        file.write_text(json.dumps(rounded(summary)) + "\n", encoding="utf-8")


def main() -> None:
    """Read the summaries, aggregate, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "runs", type=Path, nargs="+", help="run folders, or kept summaries, that differ in the seed only"
    )
    parser.add_argument("--keep", type=Path, help="folder for rounded copies of the summaries")
    arguments = parser.parse_args()
    summaries = sorted(
        (load_summary(run / "summary.json" if run.is_dir() else run) for run in arguments.runs),
        key=lambda summary: summary["seed"],
    )
    result = aggregate_seeds(summaries)
    result["commands"] = [summary["command"] for summary in summaries]
    result["random_episodes"] = summaries[0].get("random_episodes", 10)  # older summaries do not say
    for field in ("updates", "dataset", "reference", "versions"):
        result[field] = summaries[0][field]
    result["context_noise"] = {
        split: {
            name: [s["returns"][split][name].get("context_noise") for s in summaries] for name in protocols
        }
        for split, protocols in result["returns"].items()
    }
    result["codebook"] = [summary["codebook"] for summary in summaries]
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(rounded(result), indent=1) + "\n", encoding="utf-8")
    if arguments.keep is not None:
        keep(summaries, arguments.keep)
    for split, protocols in result["returns"].items():
        for name, entry in protocols.items():
            low, high = entry["ci95"]
            print(f"{split:6} {name:8} {entry['mean']:8.3f}  [{low:.3f}, {high:.3f}]  {len(summaries)} seeds")


if __name__ == "__main__":
    main()
