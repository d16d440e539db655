"""Figures of results files: adaptation curves, data, sweeps over the codebook size, context shift."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctmrl_torchrl.evaluation import best_known
from ctmrl_torchrl.evaluation.figures import plot_adaptation, plot_codes_sweep, plot_context_shift
from ctmrl_torchrl.evaluation.paper import proposed_method
from ctmrl_torchrl.studies.results import data_label
from ctmrl_torchrl.training.data_report import draw_data

__all__ = ["draw_adaptation", "draw_context_shift", "draw_results", "draw_sweep"]

_SWEPT = ("offline", "np", "np_refine", "codes")
_SHIFTED = ("offline", "np", "np_refine")


def draw_results(results: str | Path, output: str | Path) -> list[Path]:
    """Draw all figures of a folder of results files.

    Args:
        results: folder of results files; ``datasets/`` and ``sweeps/`` inside it contain those of data and
            sweeps.
        output: folder of the figures.

    Returns:
        The written files.
    """
    results, output = Path(results), Path(output)
    drawn = [
        draw_adaptation(_read(file), output / f"{file.stem}.png") for file in sorted(results.glob("*.json"))
    ]
    for file in sorted((results / "datasets").glob("*.json")):
        draw_data(_read(file), output / f"{file.stem}-data.png")
        drawn.append(output / f"{file.stem}-data.png")
    sweeps: dict[str, dict[int, Path]] = {}
    for file in (results / "sweeps").glob("*-codes-*.json"):
        name, codes = file.stem.rsplit("-", 1)
        sweeps.setdefault(name, {})[int(codes)] = file
    for name, files in sorted(sweeps.items()):
        runs = {codes: _read(file) for codes, file in sorted(files.items())}
        drawn.append(draw_sweep(runs, output / f"{name}.png"))
    return drawn


def draw_adaptation(result: Mapping[str, Any], file: str | Path) -> Path:
    """Adaptation curves of one setting under every protocol; bands are over seeds."""
    reference, tests = result["reference"], result["returns"]["test"]
    best_name, best = best_known(reference)
    curves = {}
    for name, entry in tests.items():
        low, high = entry["per_episode_ci95"] or (None, None)
        curves[name] = {"mean": entry["per_episode"], "low": low, "high": high}
    return plot_adaptation(
        curves,
        reference["random"],
        best,
        reference["paper"].get("test", {}).get(proposed_method(), {}).get("mean"),
        file,
        subtitle=f"{_setting(result)}, {_seeds(result)}",
        interval=_interval(result),
        best_name=best_name,
        random_episodes=result["random_episodes"],
    )


def draw_sweep(runs: Mapping[int, Mapping[str, Any]], file: str | Path) -> Path:
    """Final returns versus the number of codes.

    Args:
        runs: ``{number of codes: results}``.
        file: PNG to write.
    """
    curves = {}
    for protocol in _SWEPT:
        tests = [run["returns"]["test"][protocol] for run in runs.values()]
        ends = [test["ci95"] or (test["mean"], test["mean"]) for test in tests]
        curves[protocol] = {
            "codes": list(runs),
            "mean": [test["mean"] for test in tests],
            "low": [low for low, _ in ends],
            "high": [high for _, high in ends],
        }
    first = next(iter(runs.values()))
    return plot_codes_sweep(
        curves,
        first["reference"]["optimum"],
        file,
        random=first["reference"]["random"],
        subtitle=f"{_setting(first)}, preset {first['preset']}, {_seeds(first)}",
        interval=_interval(first),
    )


def draw_context_shift(results: Mapping[str, str | Path], file: str | Path) -> Path:
    """Adaptation with several ways of sampling training contexts.

    Args:
        results: ``{name: results file}``.
        file: PNG to write.
    """
    settings, result = {}, {}
    for name, source in results.items():
        result = _read(Path(source))
        settings[name] = {key: result["returns"]["test"][key]["per_episode"] for key in _SHIFTED}
    return plot_context_shift(
        settings,
        result["reference"]["optimum"],
        file,
        subtitle=f"{_setting(result)}, preset {result['preset']}, {_seeds(result)}",
    )


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _setting(result: Mapping[str, Any]) -> str:
    losses = f"{result['method']} + {result['policy_loss']}"
    return f"{result['env']} ({data_label(result)}), {losses}"


def _seeds(result: Mapping[str, Sequence[int]]) -> str:
    number = len(result["seeds"])
    return "one seed" if number == 1 else f"{number} seeds"


def _interval(result: Mapping[str, Sequence[int]]) -> str:
    return "95 % interval over seeds" if len(result["seeds"]) > 1 else ""
