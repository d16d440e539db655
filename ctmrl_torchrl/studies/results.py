"""Results files: runs of one setting, aggregated over seeds into one small JSON file."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctmrl_torchrl.evaluation import aggregate_seeds, load_summary
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import read_json, write_json, write_text
from ctmrl_torchrl.studies.identity import what_matters

__all__ = ["collect_results", "data_label", "keep_summaries", "read_results", "rounded"]

#: the recipe that labels do not name
_USUAL_RECIPE = "small"
#: fields of a summary in which two runs of one name, without a recorded command, may differ
_DEFINING = ("dataset", "updates", "comparison", "held_out")
_COPIED = ("updates", "dataset", "reference", "versions")
#: overrides that may stand in some of the commands only, because the summaries themselves say what was chosen
_IN_SUMMARIES = (
    "comparison",
    "dataset",
    "dataset.recipe",
    "dataset.seed",
    "env",
    "evaluation.protocols",
    "held_out",
    "method",
    "policy_loss",
    "policy_loss.name",
    "preset",
    "schedule.updates",
    "seed",
    "tasks",
)


def rounded(value: Any, digits: int = 4) -> Any:
    """Round every float in a value to four decimals, which keeps the files small and readable.

    Examples:
        >>> rounded({"mean": 0.123456, "per_seed": [1, 2.000049]})
        {'mean': 0.1235, 'per_seed': [1, 2.0]}
    """
    if isinstance(value, float):
        return round(value, digits)
    if isinstance(value, Mapping):
        return {key: rounded(entry, digits) for key, entry in value.items()}
    return [rounded(entry, digits) for entry in value] if isinstance(value, (list, tuple)) else value


def read_summaries(runs: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The summaries of runs, in the order of their seeds.

    Args:
        runs: run folders or summary files.

    Raises:
        StudyError: if there is none, or a folder contains no summary.
    """
    files = [Path(run) / "summary.json" if Path(run).is_dir() else Path(run) for run in runs]
    missing = [str(file) for file in files if not file.is_file()]
    if missing or not files:
        raise StudyError(
            f"No summary of a finished run at: {', '.join(missing) or 'nothing was given'}. Name run folders "
            "that hold a summary.json, or kept summaries."
        )
    return sorted((load_summary(file) for file in files), key=lambda summary: summary["seed"])


def collect_results(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and 95 % bootstrap interval over seeds of runs that differ only in the seed.

    Args:
        summaries: contents of their ``summary.json``.

    Returns:
        The output of :func:`~ctmrl_torchrl.evaluation.aggregate_seeds`, with the commands, the data, the
        references, the versions, and each seed's context and codebook statistics; rounded.

    Raises:
        ValueError: if the runs differ in more than the seed, as far as their summaries and commands say.
    """
    result = aggregate_seeds(summaries)
    _refuse_other_settings(summaries)
    first = summaries[0]
    result["commands"] = [summary.get("command") for summary in summaries]
    result["random_episodes"] = first.get("random_episodes", 10)  # missing in older summaries
    for field in _COPIED:
        result[field] = first[field]
    result["context_noise"] = {
        split: {
            name: [summary["returns"][split][name].get("context_noise") for summary in summaries]
            for name in protocols
        }
        for split, protocols in result["returns"].items()
    }
    result["codebook"] = [summary.get("codebook") for summary in summaries]
    return rounded(result)


def _refuse_other_settings(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Check that the recorded commands set the same fields to the same values, except the seed."""
    known = [(each["seed"], _settings(each["command"])) for each in summaries if each.get("command")]
    for seed, settings in known[1:]:
        first_seed, first = known[0]
        for name in sorted({*settings, *first}):
            if settings.get(name) != first.get(name):
                values = [str(each.get(name, "not set")) for each in (first, settings)]
                raise ValueError(
                    f"The commands of seeds {first_seed} and {seed} differ in {name!r}: {' and '.join(values)}. "
                    "Only aggregate runs of one setting."
                )


def _settings(command: str) -> dict[str, str]:
    """The overrides of a recorded command that affect results and that summaries do not hold themselves."""
    pairs = [word.partition("=") for word in _words(command) or () if "=" in word]
    overrides = {name.lstrip("+~"): value for name, _, value in pairs}
    settings = {name: value for name, value in what_matters(overrides).items() if name not in _IN_SUMMARIES}
    if str(settings.get("compile")).lower() == "false":  # the default, which most commands do not say
        del settings["compile"]
    given = {name: value for name, value in overrides.items() if name == "dataset.path"}  # summaries lack it
    return settings | given


def keep_summaries(summaries: Iterable[Mapping[str, Any]], folder: str | Path) -> list[Path]:
    """Write a compact, rounded copy of every summary, named after its setting and seed.

    The copies can replace run folders later, when more seeds have been run elsewhere.

    Raises:
        StudyError: if a file with that name contains the run of another command.
    """
    written = []
    for summary in summaries:
        names = ("env", "method", "policy_loss", "preset")
        parts = [summary[name] for name in names] + [summary["dataset"]["tasks"]]
        name = re.sub(r"[^\w.+-]+", "_", "-".join(parts)).lstrip(
            "."
        )  # user-defined environments may have names like a/b-v1
        file = Path(folder) / f"{name}-seed{summary['seed']}.json"
        if file.exists():
            kept = read_json(file)
            if kept is None or "returns" not in kept:
                raise StudyError(f"{file} is not a summary copy; move it away.")
            if _words(kept.get("command")) != _words(summary.get("command")):
                raise StudyError(
                    f"{file} contains the run of another command ({kept.get('command')}); "
                    "keep this one in another folder."
                )
            for field in _DEFINING:
                if kept.get(field) != summary.get(field):
                    raise StudyError(
                        f"{file} contains another run: its {field} is {kept.get(field)!r}, that of this one "
                        f"{summary.get(field)!r}; keep this one in another folder."
                    )
        written.append(write_text(file, json.dumps(rounded(summary)) + "\n"))
    return written


def _words(command: str | None) -> list[str] | None:
    """Split a recorded command into words; records of earlier versions are not shell-quoted."""
    if command is None:
        return None
    try:
        return shlex.split(command)
    except ValueError:  # a quote that is not closed
        return command.split()


def write_results(result: Mapping[str, Any], file: str | Path) -> Path:
    """Write the output of :func:`collect_results`."""
    return write_json(file, result, indent=1)


def read_results(files: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Read results files; each gets its file name without the suffix as ``"name"``."""
    results = []
    for file in map(Path, files):
        results.append({"name": file.stem, **json.loads(file.read_text(encoding="utf-8"))})
    return results


def data_label(result: Mapping[str, Any]) -> str:
    """Task set of the data, and their recipe unless it is the usual one.

    Args:
        result: a results file, or one of an oracle, which holds ``tasks`` and ``recipe`` itself.

    Examples:
        >>> data_label({"dataset": {"tasks": "repo", "recipe": "small"}})
        'repo'
        >>> data_label({"tasks": "repo", "recipe": "broad"})
        'repo, broad'
        >>> data_label({"dataset": {"tasks": "given", "recipe": None}})  # the user's own data
        'given'
    """
    data = {"recipe": _USUAL_RECIPE} | result.get("dataset", result)
    return data["tasks"] if data["recipe"] in (None, _USUAL_RECIPE) else f"{data['tasks']}, {data['recipe']}"
