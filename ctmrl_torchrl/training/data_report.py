"""Reports the behavior returns in a dataset by training stage: as numbers, a table and a figure."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl import storage
from ctmrl_torchrl.data import DatasetError, TaskDataset, snapshot_returns
from ctmrl_torchrl.envs import TaskSet, optimal_returns
from ctmrl_torchrl.evaluation import figures, parameters_behind_returns
from ctmrl_torchrl.evaluation.summary import best_known
from ctmrl_torchrl.training.data import tasks_of_dataset
from ctmrl_torchrl.training.random_reference import random_reference

_FILES = ("report.json", "returns.png")
_HEADER = ("training step", "train tasks", "test tasks", "worst task", "best task")


def data_report(dataset: TaskDataset, command: str | None = None) -> dict[str, Any]:
    """Statistics of a dataset as plain JSON types.

    Args:
        dataset: any dataset; its environment need not be registered.
        command: the command line that collected it, recorded verbatim.

    Returns:
        ``env``, ``tasks`` (preset), ``counts``, ``megabytes``, ``recipe``, ``seeds``, ``versions``,
        ``reference`` (``random``, ``optimum`` or ``behaviour`` of the test tasks; the same under ``train`` and,
        over the tasks of both, ``all``), ``behaviour`` (the agent that made the data, without its exploration
        noise: its return on every task), ``parameters_behind_returns`` of the last stage (see the function of
        this name) and ``snapshots``: one entry per stage with ``step``, ``train``, ``test`` and ``per_task``
        returns.
    """
    manifest = dataset.manifest
    tasks = tasks_of_dataset(dataset)
    returns = snapshot_returns(dataset, tasks.family.return_key)
    columns = ("snapshot_id", "step", "mean", "train", "test", "per_task")
    leaves = dataset.transitions.values(include_nested=True, leaves_only=True)
    return {
        "env": manifest.env,
        "tasks": manifest.preset,
        "counts": manifest.counts,
        "megabytes": round(sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 1e6, 1),
        "recipe": manifest.recipe,
        "seeds": manifest.seeds,
        "versions": manifest.versions,
        "reference": _reference(tasks, random_reference(tasks, dataset), manifest.oracle),
        "behaviour": manifest.oracle,
        "parameters_behind_returns": _behind_returns(
            tasks.parameters[returns["task_id"]], returns["per_task"][-1], tasks.parameter_names
        ),
        "snapshots": [
            {name: returns[name][i] for name in columns} for i in range(len(returns["snapshot_id"]))
        ],
        "command": command,
    }


def _behind_returns(
    parameters: torch.Tensor, per_task: list[float | None], names: Sequence[str]
) -> dict[str, float]:
    returns = torch.tensor([float("nan") if value is None else value for value in per_task])
    return parameters_behind_returns(parameters, returns, names)


def _reference(tasks: TaskSet, random: dict[str, float | None], behaviour: dict[str, Any]) -> dict[str, Any]:
    splits = {"test": list(tasks.test_ids), "train": list(tasks.train_ids)}
    known = {}
    optima = optimal_returns(tasks) if tasks.family.has_optimum else None
    for split, ids in splits.items():
        best = None if optima is None else optima[ids].mean().item()
        known[split] = {"random": random.get(split), "optimum": best}
        if optima is None and behaviour:
            known[split]["behaviour"] = behaviour.get(split)
    share = len(splits["test"]) / (len(splits["test"]) + len(splits["train"]))
    both = {
        name: None if None in (test, train) else share * test + (1.0 - share) * train
        for name, test, train in ((name, known["test"][name], known["train"][name]) for name in known["test"])
    }
    return known["test"] | {"train": known["train"], "all": both}


def check_report_place(folder: Path) -> None:
    """Refuse to replace a ``report.json`` or ``returns.png`` that is not of an earlier report.

    Raises:
        DatasetError: naming the file. StorageError: if nothing may be written there.
    """
    folder = storage.resolved(folder)
    own = _own_pictures(folder)
    foreign = [folder / name for name in _FILES if os.path.lexists(folder / name)]
    if own is not None:  # the report is one; its picture is known by its content
        foreign = [file for file in foreign if file.name == _FILES[1] and _digest(file) not in own]
    if foreign:
        raise DatasetError(
            f"{foreign[0]} was not written with a report on data and is not replaced; move it away, or make the "
            "dataset in another folder."
        )


def write_data_report(dataset: TaskDataset, folder: Path, command: str | None = None) -> dict[str, Any]:
    """Write ``folder/report.json`` and ``folder/returns.png``; return the report.

    The report records the sha256 of its picture under ``pictures``, so that no other picture is replaced.
    A picture that cannot be drawn is left out with a warning.

    Raises:
        DatasetError: as :func:`check_report_place`.
    """
    check_report_place(folder)
    report = data_report(dataset, command)
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / _FILES[1]
    with tempfile.TemporaryDirectory() as place:
        drawn = Path(place) / picture.name
        with picture_or_warning(picture.name):
            draw_data(report, drawn)
        content = drawn.read_bytes() if drawn.exists() else None
    # until it is replaced, the picture of the earlier report is also one of this report
    digests = {None if content is None else hashlib.sha256(content).hexdigest(), _digest(picture)} - {None}
    report["pictures"] = sorted(map(str, digests))
    storage.atomic_write_text(folder / _FILES[0], json.dumps(report, indent=1, allow_nan=False) + "\n")
    if content is not None:
        storage.atomic_write_bytes(picture, content)
    return report


def _own_pictures(folder: Path) -> list[str | None] | None:
    """The digests of the pictures that a folder's report has written; None if it has no report.

    A report of an earlier version lists none; the picture beside it counts as its own.
    """
    try:
        content = json.loads((folder / _FILES[0]).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not {"env", "counts", "snapshots", "reference"} <= content.keys():
        return None
    pictures = content.get("pictures", [_digest(folder / _FILES[1])])
    return pictures if isinstance(pictures, list) else []


def _digest(file: Path) -> str | None:
    """The sha256 of a file; None if it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return None


@contextmanager
def picture_or_warning(picture: str, kind: str = "picture") -> Iterator[None]:
    """Draw inside: a picture that cannot be drawn is a warning, and everything else stays.

    Args:
        picture: its name. kind: what the warning calls it.
    """
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        torchrl_logger.warning(f"{kind} left out ({picture}): {type(error).__name__}: {reason}")


def draw_data(report: dict[str, Any], path: Path) -> None:
    """Plot the return of every behavior snapshot from a report, with the reference returns."""
    snapshots, reference = report["snapshots"], report["reference"]["all"]
    steps = [entry["step"] for entry in snapshots]
    best_name, best = best_known(reference)
    figures.plot_snapshot_returns(
        [entry["snapshot_id"] for entry in snapshots] if None in steps else steps,
        np.array([entry["per_task"] for entry in snapshots], dtype=float),
        reference["random"],
        best,
        path,
        subtitle=f"{report['env']}, {report['counts']['tasks']} tasks",
        numbered=None in steps,
        best_name=best_name,
    )


def format_data_table(report: dict[str, Any]) -> str:
    """Format the returns of every stage as text, with the random policy and the best known return."""
    counts, reference = report["counts"], report["reference"]
    rows: list[tuple[str, ...]] = [_HEADER]
    for entry in report["snapshots"]:
        per_task = [value for value in entry["per_task"] if value is not None]
        step = "-" if entry["step"] is None else f"{entry['step']:,}"
        values = entry["train"], entry["test"], min(per_task), max(per_task)
        rows.append((step, *("-" if value is None else f"{value:z.2f}" for value in values)))
    for name, label in (("random", "random"), ("optimum", "optimum"), ("behaviour", "behavior")):
        values = reference["train"].get(name), reference.get(name)
        if any(value is not None for value in values):
            rows.append((label, *("-" if value is None else f"{value:z.2f}" for value in values), "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    title = (
        f"{report['env']} ({report['tasks']}): {counts['tasks']} tasks, "
        f"{counts['trajectories']:,} trajectories, {counts['transitions']:,} transitions, "
        f"{report['megabytes']} MB; mean return of every stage"
    )
    behind = report["parameters_behind_returns"]
    told = ", ".join(f"{name} ({correlation:+.2f})" for name, correlation in behind.items())
    note = [f"Returns of the last stage go with (rank correlation over tasks): {told}"] if told else []
    return "\n".join([title, "", *lines, *note])
