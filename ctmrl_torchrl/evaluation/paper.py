"""Numbers published in the CTMRL paper, for comparison with ours."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

__all__ = ["PaperResult", "load_paper_table", "paper_reference", "paper_result", "proposed_method"]

Table = Literal["methods", "ablations", "codes"]

# The paper says in-/out-of-distribution where this library says training/test tasks.
_SPLITS = {"ood": "ood", "test": "ood", "id": "id", "train": "id"}


@dataclass(frozen=True)
class PaperResult:
    """One published number.

    Args:
        env: environment family, by its name in this library.
        split: ``"ood"`` (test tasks) or ``"id"`` (training tasks).
        method: method, ablation (``"without_kmeans"``) or number of codes (``"8"``), by table.
        mean: mean return over six seeds.
        halfwidth: half the width of the 95 % bootstrap interval over seeds.

    Example:
        >>> paper_result("point_robot")
        PaperResult(env='point_robot', split='ood', method='ctmrl', mean=-4.81, halfwidth=0.12)
    """

    env: str
    split: str
    method: str
    mean: float
    halfwidth: float


@cache
def _tables() -> dict[str, Any]:
    text = files("ctmrl_torchrl.evaluation").joinpath("paper_tables.json").read_text(encoding="utf-8")
    return json.loads(text)


def load_paper_table(table: Table = "methods") -> tuple[PaperResult, ...]:
    """All numbers of one table of the paper.

    Args:
        table: ``"methods"`` (Table 1, comparison), ``"ablations"`` (Table 2) or ``"codes"`` (Table 3, number
            of codes). Empty cells of the paper are omitted.

    Raises:
        ValueError: for an unknown table.

    Example:
        >>> len(load_paper_table("methods"))
        112
    """
    if table not in ("methods", "ablations", "codes"):
        raise ValueError(f"Unknown table {table!r}; the tables are 'methods', 'ablations' and 'codes'.")
    return tuple(
        PaperResult(env, split, method, mean, halfwidth)
        for env, splits in _tables()[table].items()
        for split, methods in splits.items()
        for method, (mean, halfwidth) in methods.items()
    )


def paper_result(
    env: str, method: str = "ctmrl", split: str = "ood", table: Table = "methods"
) -> PaperResult:
    """One number of the paper.

    Args:
        env: environment family.
        method: column of the table.
        split: ``"ood"`` or ``"test"``, ``"id"`` or ``"train"``.
        table: see :func:`load_paper_table`.

    Raises:
        ValueError: if the paper does not report this number; the message lists the available ones.

    Example:
        >>> paper_result("sparse_point_robot", split="test").mean
        12.45
    """
    if split not in _SPLITS:
        raise ValueError(f"Unknown split {split!r}; use one of {sorted(_SPLITS)}.")
    rows = load_paper_table(table)
    found = [row for row in rows if (row.env, row.split, row.method) == (env, _SPLITS[split], method)]
    if not found:
        columns = [row.method for row in rows if (row.env, row.split) == (env, _SPLITS[split])]
        known = (
            f"the columns {columns}" if columns else f"the environments {sorted({row.env for row in rows})}"
        )
        raise ValueError(
            f"Table {table!r} has no number for env={env!r}, split={split!r}, method={method!r}; "
            f"it has {known}."
        )
    return found[0]


def proposed_method() -> str:
    """The method that the paper proposes; the others in its tables are its rivals.

    Example:
        >>> proposed_method()
        'ctmrl'
    """
    return _tables()["proposed"]


def paper_reference(env: str) -> dict[str, dict[str, dict[str, float]]]:
    """Table 1 for one environment, as ``summary.json`` stores it.

    Returns:
        ``{"test": {method: {"mean": ..., "halfwidth": ...}}, "train": {...}}``; empty for environments that
        are not in the paper.

    Example:
        >>> paper_reference("point_robot")["test"]["idaq"]
        {'mean': -4.76, 'halfwidth': 0.07}
    """
    reference: dict[str, dict[str, dict[str, float]]] = {}
    for row in load_paper_table("methods"):
        if row.env == env:
            split = "test" if row.split == "ood" else "train"
            reference.setdefault(split, {})[row.method] = {"mean": row.mean, "halfwidth": row.halfwidth}
    return reference
