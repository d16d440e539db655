"""Formats a summary as a text table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctmrl_torchrl.evaluation.paper import proposed_method
from ctmrl_torchrl.evaluation.summary import REFERENCES

__all__ = ["format_summary_table"]

_SPLITS = {"test": "unseen test tasks", "train": "training tasks"}
_HEADER = ("protocol", "before", "after 1", "after 10", "final mean", "95 % interval")


def format_summary_table(summary: Mapping[str, Any]) -> str:
    """Format returns by split and protocol, with the random policy, the optimum and the paper.

    ``before`` is the return without evidence, ``after 1 / 10`` the return after 1 or 10 collected episodes. The
    final mean is the return of the last measured episode, with the number of episodes in parentheses and
    the bootstrap interval.

    Args:
        summary: see :func:`~ctmrl_torchrl.evaluation.summary.build_summary`.

    Example:
        >>> result = {"mean": -4.6, "ci95": [-4.9, -4.4], "per_task": {"2": -4.6}, "per_episode": [-6, -4.6]}
        >>> print(format_summary_table({
        ...     "env": "point_robot", "method": "ctmrl", "policy_loss": "iql", "preset": "quick", "seed": 0,
        ...     "updates": 1000, "wall_time_s": 90.0, "returns": {"test": {"np": result}},
        ...     "reference": {"random": -20.36, "optimum": -3.855, "paper": {}},
        ...     "codebook": {"perplexity": 7.1, "dead_codes": 0},  # what a part of the method has added
        ... }))  # doctest: +NORMALIZE_WHITESPACE
        point_robot | ctmrl + iql | preset quick | seed 0 | 1,000 updates in 1.5 min
        codes in use (perplexity) 7.1, dead codes 0
        <BLANKLINE>
        Return on unseen test tasks (mean over tasks, higher is better)
          protocol       before  after 1  after 10  final mean     95 % interval
          ----------------------------------------------------------------------
          np             -6.000   -4.600         -  -4.600 (2)  [-4.900, -4.400]
          random policy       -        -         -     -20.360                 -
          optimum             -        -         -      -3.855                 -
    """
    minutes = summary["wall_time_s"] / 60
    lines = [
        f"{summary['env']} | {summary['method']} + {summary['policy_loss']} | preset {summary['preset']} | "
        f"seed {summary['seed']} | {summary['updates']:,} updates in {minutes:.1f} min"
    ]
    codebook = summary.get("codebook") or {}
    if codebook.get("perplexity") is not None:
        dead = "" if codebook.get("dead_codes") is None else f", dead codes {codebook['dead_codes']:g}"
        lines.append(f"codes in use (perplexity) {codebook['perplexity']:.1f}{dead}")
    for split, title in _SPLITS.items():
        if summary["returns"].get(split):
            rows = _result_rows(summary["returns"][split]) + _reference_rows(summary["reference"], split)
            lines += [
                "",
                f"Return on {title} (mean over tasks, higher is better)",
                *_layout([_HEADER, *rows]),
            ]
    return "\n".join(lines)


def _result_rows(protocols: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for protocol, result in protocols.items():
        episodes = result["per_episode"]
        low, high = result["ci95"]
        rows.append(
            (
                protocol,
                _number(episodes[0]),
                *(_number(episodes[k]) if len(episodes) > k else "-" for k in (1, 10)),
                f"{_number(result['mean'])} ({len(episodes)})",
                f"[{_number(low)}, {_number(high)}]",
            )
        )
    return rows


def _reference_rows(reference: Mapping[str, Any], split: str) -> list[tuple[str, ...]]:
    known = reference if split == "test" else reference.get("train", {})
    rows = [
        (label, "-", "-", "-", _number(known[name]), "-")
        for name, label in REFERENCES.items()
        if known.get(name) is not None
    ]
    paper = reference["paper"].get(split, {})
    proposed = proposed_method()
    rivals = {name: result for name, result in paper.items() if name != proposed}
    shown = [proposed] if proposed in paper else []
    if rivals:
        shown.append(max(rivals, key=lambda name: rivals[name]["mean"]))
    for name in shown:
        mean, half = paper[name]["mean"], paper[name]["halfwidth"]
        label = f"paper: {name}" if name == proposed else f"paper: best rival ({name})"
        rows.append(
            (label, "-", "-", "-", _number(mean), f"[{_number(mean - half)}, {_number(mean + half)}]")
        )
    return rows


def _number(value: float) -> str:
    return f"{value:z.1f}" if abs(value) >= 100 else f"{value:z.3f}"


def _layout(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [lines[0], "  " + "-" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]]
