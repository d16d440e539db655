"""Aggregation of runs that differ only in the seed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ctmrl_torchrl.evaluation.statistics import bootstrap_interval, mean_over_seeds

__all__ = ["aggregate_seeds"]

#: fields in which runs of one setting agree
_SETTING = (
    "env",
    "method",
    "policy_loss",
    "preset",
    "dataset",
    "updates",
    "held_out",
    "comparison",
    "random_episodes",
)
#: fields that summaries of earlier versions lack, although their runs had a value
_LATER = ("comparison", "random_episodes")


def aggregate_seeds(
    summaries: Sequence[Mapping[str, Any]], confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Mean and bootstrap interval over seeds for every split and protocol.

    Args:
        summaries: contents of ``summary.json`` of runs that differ only in the seed.
        confidence: level of the intervals.
        seed: seed of the resampling.

    Returns:
        Plain dict with ``env``, ``method``, ``policy_loss``, ``preset``, ``seeds`` and
        ``returns[split][protocol]`` = ``mean``, ``ci95``, ``per_seed``, ``per_episode`` and
        ``per_episode_ci95`` (two lists: lower and upper ends). With one seed there is no interval over seeds:
        ``ci95`` and ``per_episode_ci95`` are ``None``; the interval over tasks is never used instead.

    Raises:
        ValueError: if there is no summary, a seed occurs twice, or the runs differ in environment, method,
            policy loss, preset, dataset, updates, held-out tasks, comparison or random episodes (unless they are
            not recorded), tasks, protocols or number of adaptation episodes.

    Example:
        >>> def run(seed, value):
        ...     result = {"mean": value, "per_episode": [value - 1, value]}
        ...     return {"env": "point_robot", "method": "ctmrl", "policy_loss": "iql", "preset": "cpu",
        ...             "seed": seed, "returns": {"test": {"np": result}}}
        >>> table = aggregate_seeds([run(0, -4.0), run(1, -6.0)])
        >>> table["returns"]["test"]["np"]["mean"]
        -5.0
    """
    if not summaries:
        raise ValueError("aggregate_seeds needs at least one summary.")
    first = summaries[0]
    for field in _SETTING:
        known = [summary.get(field) for summary in summaries if field in summary or field not in _LATER]
        found = sorted({json.dumps(value, sort_keys=True) for value in known})
        if len(found) > 1:
            raise ValueError(
                f"The summaries differ in {field!r}: {found}. Only aggregate runs of one setting."
            )
    seeds = [int(summary["seed"]) for summary in summaries]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"A seed occurs more than once among the summaries: {sorted(seeds)}.")
    layout = _layout(first)
    for summary in summaries[1:]:
        if _layout(summary) != layout:
            raise ValueError(
                f"The returns of seed {summary['seed']} have the layout {_layout(summary)}, but those of seed "
                f"{first['seed']} have {layout} (split/protocol: number of adaptation episodes)."
            )
        if _tasks(summary) != _tasks(first):
            raise ValueError(
                f"Seed {summary['seed']} was evaluated on different tasks than seed {first['seed']}; "
                "their returns cannot be averaged."
            )
    returns: dict[str, dict[str, Any]] = {}
    for split, protocols in first["returns"].items():
        returns[split] = {}
        for protocol in protocols:
            results = [summary["returns"][split][protocol] for summary in summaries]
            finals = [float(result["mean"]) for result in results]
            episodes = torch.tensor([result["per_episode"] for result in results], dtype=torch.float64)
            over_seeds = mean_over_seeds(finals, confidence, seed)
            ends = [bootstrap_interval(column, confidence, seed) for column in episodes.unbind(1)]
            ends = [] if len(finals) < 2 else [[low for low, _ in ends], [high for _, high in ends]]
            returns[split][protocol] = {
                "mean": float(np.mean(finals)),
                "ci95": None if over_seeds.interval is None else list(over_seeds.interval),
                "per_seed": finals,
                "per_episode": episodes.mean(0).tolist(),
                "per_episode_ci95": ends or None,
            }
    setting = {field: first[field] for field in ("env", "method", "policy_loss", "preset")}
    return {**setting, "seeds": seeds, "returns": returns}


def _tasks(summary: Mapping[str, Any]) -> dict[str, list[str]]:
    return {
        f"{split}/{protocol}": sorted(map(str, result.get("per_task", ())))
        for split, protocols in summary["returns"].items()
        for protocol, result in protocols.items()
    }


def _layout(summary: Mapping[str, Any]) -> dict[str, int]:
    return {
        f"{split}/{protocol}": len(result["per_episode"])
        for split, protocols in sorted(summary["returns"].items())
        for protocol, result in sorted(protocols.items())
    }
