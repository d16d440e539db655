"""Draw the pictures of README and docs from the JSON files in results/.

    python examples/draw_results.py

Adaptation curves of every setting, the behaviour in the data and the sweeps over the size of the codebook
go to results/figures/, the comparison of ways to draw training contexts to docs/figures/context-shift.png.
"""

from __future__ import annotations

import json
from pathlib import Path

from ctmrl_torchrl.evaluation import best_known
from ctmrl_torchrl.evaluation.figures import plot_adaptation, plot_codes_sweep, plot_context_shift
from ctmrl_torchrl.training.data_report import draw_data

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
SHIFT = {
    "Encoder trained on whole trajectories\nof one to three behaviours (ours)": "ablations/none.json",
    "Encoder trained on single transitions\nof all behaviours (as released)": "ablations/released-draw.json",
}


def _setting(result: dict) -> str:
    losses = f"{result['method']} + {result['policy_loss']}"
    return f"{result['env']} ({result['dataset']['tasks']}), {losses}"


def _seeds(result: dict) -> str:
    number = len(result["seeds"])
    return "one seed" if number == 1 else f"{number} seeds"


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def draw_sweep(files: list[Path], output: Path) -> None:
    """Final returns against the number of codes, from one file per number: ``...-codes-NUMBER.json``."""
    files = sorted(files, key=lambda file: int(file.stem.rsplit("-", 1)[1]))
    runs = [_read(file) for file in files]
    sizes = [int(file.stem.rsplit("-", 1)[1]) for file in files]
    curves = {}
    for protocol in ("offline", "np", "np_refine", "codes"):
        tests = [run["returns"]["test"][protocol] for run in runs]
        curves[protocol] = {
            "codes": sizes,
            "mean": [test["mean"] for test in tests],
            "low": [test["ci95"][0] for test in tests],
            "high": [test["ci95"][1] for test in tests],
        }
    first = runs[0]
    plot_codes_sweep(
        curves,
        first["reference"]["optimum"],
        output,
        random=first["reference"]["random"],
        subtitle=f"{_setting(first)}, preset {first['preset']}, {_seeds(first)}",
        interval="95 % interval over seeds" if len(first["seeds"]) > 1 else "",
    )


def main() -> None:
    """Read, draw."""
    for file in sorted(RESULTS.glob("*.json")):
        result = _read(file)
        reference, tests = result["reference"], result["returns"]["test"]
        best_name, best = best_known(reference)
        plot_adaptation(
            {
                name: {
                    "mean": entry["per_episode"],
                    "low": entry["per_episode_ci95"][0],
                    "high": entry["per_episode_ci95"][1],
                }
                for name, entry in tests.items()
            },
            reference["random"],
            best,
            reference["paper"]["test"]["ctmrl"]["mean"],
            RESULTS / "figures" / f"{file.stem}.png",
            subtitle=f"{_setting(result)}, {_seeds(result)}",
            interval="95 % interval over seeds" if len(result["seeds"]) > 1 else "",
            best_name=best_name,
            random_episodes=result["random_episodes"],
        )
    for file in sorted((RESULTS / "datasets").glob("*.json")):
        draw_data(_read(file), RESULTS / "figures" / f"{file.stem}-data.png")
    sweeps = sorted({file.stem.rsplit("-", 1)[0] for file in (RESULTS / "sweeps").glob("*-codes-*.json")})
    for name in sweeps:
        draw_sweep(list((RESULTS / "sweeps").glob(f"{name}-*.json")), RESULTS / "figures" / f"{name}.png")
    settings = {}
    for name, file in SHIFT.items():
        result = _read(RESULTS / file)
        shown = ("offline", "np", "np_refine")
        settings[name] = {key: result["returns"]["test"][key]["per_episode"] for key in shown}
    plot_context_shift(
        settings,
        result["reference"]["optimum"],
        ROOT / "docs" / "figures" / "context-shift.png",
        subtitle=f"{_setting(result)}, preset {result['preset']}, one seed",
    )


if __name__ == "__main__":
    main()
