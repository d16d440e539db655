"""The documentation's results table, generated from results files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctmrl_torchrl.evaluation import best_known
from ctmrl_torchrl.evaluation.paper import proposed_method
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import write_text
from ctmrl_torchrl.studies.results import data_label, read_results

__all__ = ["DISPLAY_NAMES", "display_name", "results_table", "write_between_marks"]

DISPLAY_NAMES = {
    "point_robot": "Point-Robot",
    "point_robot_wind": "Point-Robot-Wind",
    "sparse_point_robot": "Sparse-Point-Robot",
    "half_cheetah_vel": "Half-Cheetah-Vel",
    "ant_goal": "Ant-Goal",
    "hopper_rand_params": "Hopper-Rand-Params",
    "walker_rand_params": "Walker-Rand-Params",
}
#: numbers of collected episodes after which the return under `np` is shown
_EARLY = (1, 3, 5)
_PROTOCOLS = ("none", "offline", "online", "np", "np_refine", "codes")
_HEADER = (
    "environment (tasks, recipe)", "method", "seeds", "no context", "offline", "online",
    "np after 1 / 3 / 5 episodes", "np, random only", "np", "np_refine", "codes", "oracle", "optimum", "paper",
)  # fmt: skip


def display_name(env: str) -> str:
    """The paper's name of an environment family; other families keep their name.

    Examples:
        >>> display_name("point_robot"), display_name("my_pendulum")
        ('Point-Robot', 'my_pendulum')
    """
    return DISPLAY_NAMES.get(env, env)


def results_table(folder: str | Path) -> str:
    """The Markdown table of all results files in a folder, with one row per setting.

    The first cell names the recipe of the data unless it is the default, ``small``.

    Args:
        folder: folder of results files (see :func:`~ctmrl_torchrl.studies.results.collect_results`); ``oracle/``
            inside it contains results of policies with privileged task information.

    Raises:
        StudyError: if two of these policies have the same setting.
    """
    folder = Path(folder)
    oracles: dict[tuple[str, ...], float] = {}
    for run in read_results((folder / "oracle").glob("*.json")):
        if oracles.setdefault(_setting(run), run["returns"]["test"]) != run["returns"]["test"]:
            raise StudyError(
                f"{folder / 'oracle'} has two oracles of {', '.join(_setting(run))} with other returns; keep one."
            )
    results = sorted(read_results(folder.glob("*.json")), key=_order)
    rows = [_row(result, oracles.get(_setting(result))) for result in results]
    return markdown_table([_HEADER, *rows])


def markdown_table(rows: Iterable[Sequence[str]]) -> str:
    """Format rows of cells, of which the first is the header, as a Markdown table.

    Examples:
        >>> print(markdown_table([("method", "np"), ("ctmrl", "-4.50")]))
        | method | np |
        | --- | --- |
        | ctmrl | -4.50 |
    """
    header, *body = rows
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *body))


def write_between_marks(file: str | Path, text: str, mark: str = "table") -> None:
    """Replace the text between ``<!-- MARK -->`` and ``<!-- /MARK -->`` in a file.

    Raises:
        StudyError: if the file does not contain these markers.
    """
    file = Path(file)
    opening, closing = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    content, found = re.subn(
        f"{re.escape(opening)}.*{re.escape(closing)}",
        lambda _: f"{opening}\n{text}\n{closing}",
        file.read_text(encoding="utf-8"),
        flags=re.S,
    )
    if not found:
        raise StudyError(f"{file.name} has no {opening} ... {closing} markers to write between.")
    write_text(file, content)


def _setting(run: Mapping[str, Any]) -> tuple[str, ...]:
    """The fields that a result and its oracle share."""
    return run["env"], data_label(run), run["policy_loss"], run["preset"]


def _order(result: Mapping[str, Any]) -> tuple[Any, ...]:
    known = list(DISPLAY_NAMES)
    place = known.index(result["env"]) if result["env"] in known else len(known)
    paper_tasks = result["dataset"]["tasks"] == "paper"
    return place, result["env"], paper_tasks, result["method"], result["policy_loss"], result["name"]


def _row(result: Mapping[str, Any], oracle: float | None) -> list[str]:
    """The cells of one setting; a single seed has no interval."""
    tests, seeds, reference = result["returns"]["test"], len(result["seeds"]), result["reference"]
    best_name, best = best_known(reference)

    def cell(name: str) -> str:
        if name not in tests:
            return ""
        entry = tests[name]
        if seeds < 2 or entry["ci95"] is None:
            return f"{entry['mean']:z.2f}"
        low, high = entry["ci95"]
        return f"{entry['mean']:z.2f} [{low:z.2f}, {high:z.2f}]"

    none, offline, online, *others = (cell(name) for name in _PROTOCOLS)
    early = [_after(tests.get("np"), number) for number in _EARLY]
    after = [" / ".join(filter(None, early)), _after(tests.get("np"), result["random_episodes"])]
    loss = "" if result["policy_loss"] == "brac_sac" else f", `{result['policy_loss']}`"
    paper = reference["paper"].get("test", {}).get(proposed_method(), {}).get("mean")
    return [
        f"{display_name(result['env'])} ({data_label(result)})",
        f"`{result['method']}`{loss}",
        str(seeds),
        none,
        offline,
        online,
        *after,
        *others,
        _number(oracle),
        _number(best) + ("" if best_name == "optimum" or best is None else f" ({best_name})"),
        _number(paper),
    ]


def _after(result: Mapping[str, Any] | None, episodes: int) -> str:
    if result is None or len(result["per_episode"]) <= episodes:
        return ""
    return f"{result['per_episode'][episodes]:z.2f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:z.2f}"
