"""The returns to which the runs of a table's row are compared."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from ctmrl_torchrl.evaluation import best_known

__all__ = ["Reference", "shared_reference"]


@dataclass(frozen=True)
class Reference:
    """The references that runs share.

    Args:
        random: return of the random policy; ``None`` if it is unknown or differs between the runs.
        best: the best known return, likewise. name: what it is.
        problem: how the references differ between the runs; empty if they do not.
    """

    random: float | None = None
    best: float | None = None
    name: str = ""
    problem: str = ""


class _Value(NamedTuple):
    level: str
    name: str
    value: float | None

    def __str__(self) -> str:
        number = "unknown" if self.value is None else f"{self.value:.6g}"
        return f"{self.level}: {self.name} {number}".replace("  ", " ")


def shared_reference(runs: Iterable[tuple[str, Mapping[str, Any]]], split: str) -> Reference:
    """The references of a split that all runs share.

    Args:
        runs: the compared level and the summary of every run; runs without returns of the split do not count.
        split: ``test`` or ``train``.

    Examples:
        >>> def run(optimum):
        ...     return {"returns": {"test": {"np": {}}}, "reference": {"random": -20.0, "optimum": optimum}}
        >>> shared_reference([("small", run(-4.0)), ("broad", run(-4.0))], "test").best
        -4.0
        >>> shared_reference([("small", run(-4.0)), ("broad", run(-2.0))], "test").problem
        'different best known returns (small: optimum -4, broad: optimum -2)'
    """
    random, best = [], []
    for level, summary in runs:
        if summary["returns"].get(split):
            known = summary["reference"] if split == "test" else summary["reference"].get("train", {})
            random.append(_Value(level, "", known.get("random")))
            best.append(_Value(level, *best_known({"optimum": None, **known})))
    if not random:
        return Reference()
    problems = [
        f"different {name} returns ({', '.join(dict.fromkeys(map(str, values)))})"
        for name, values in (("random", random), ("best known", best))
        if not _equal(values)
    ]
    shared = best[0] if _equal(best) else _Value("", "", None)
    return Reference(
        random[0].value if _equal(random) else None,
        shared.value,
        "" if shared.value is None else shared.name,
        " and ".join(problems),
    )


def _equal(values: list[_Value]) -> bool:
    first = values[0]
    return all(
        each.name == first.name
        and (each.value is None) == (first.value is None)
        and math.isclose(each.value or 0.0, first.value or 0.0, rel_tol=1e-6)
        for each in values
    )
