"""Bootstrap confidence intervals and the aggregation of several seeds."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor

__all__ = ["aggregate_seeds", "bootstrap_interval"]

_RESAMPLES = 9999


def bootstrap_interval(
    values: Sequence[float] | np.ndarray | Tensor, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap confidence interval of the mean.

    The bias-corrected and accelerated interval (BCa); where it is not defined (degenerate resamples) the
    plain percentile interval. One value, or values that are all equal, give an interval of width zero.

    Args:
        values: one-dimensional and finite, for instance the final returns of the tasks or of the seeds.
        confidence: level between 0 and 1.
        seed: of the resampling; the same seed gives the same interval.

    Returns:
        The lower and the upper end; never NaN.

    Raises:
        ValueError: if there is no value, a value is not finite, or the level is out of range.

    Example:
        >>> low, high = bootstrap_interval([-4.7, -4.9, -4.8, -5.0])
        >>> -5.0 <= low < -4.85 < high <= -4.7
        True
        >>> bootstrap_interval([3.0])
        (3.0, 3.0)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"values must be one-dimensional and not empty, got the shape {list(sample.shape)}.")
    if not np.isfinite(sample).all():
        where = np.flatnonzero(~np.isfinite(sample)).tolist()
        raise ValueError(f"values must be finite, but those at the positions {where} are not.")
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    with warnings.catch_warnings():
        # Degenerate BCa intervals warn and return NaN: the fallback below deals with them.
        warnings.simplefilter("ignore")
        interval = _bootstrap(sample, confidence, seed, "BCa")
        if not np.isfinite(interval).all():
            interval = _bootstrap(sample, confidence, seed, "percentile")
    return float(interval[0]), float(interval[1])


def _bootstrap(sample: np.ndarray, confidence: float, seed: int, method: str) -> tuple[float, float]:
    result = bootstrap(
        (sample,),
        np.mean,
        confidence_level=confidence,
        n_resamples=_RESAMPLES,
        method=method,
        vectorized=True,
        batch=max(1, min(_RESAMPLES, 2_000_000 // sample.size)),
        rng=np.random.default_rng(seed),
    )
    return result.confidence_interval.low, result.confidence_interval.high


def aggregate_seeds(
    summaries: Sequence[Mapping[str, Any]], confidence: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """Mean and bootstrap interval over seeds for every split and protocol.

    Args:
        summaries: the contents of ``summary.json`` of runs that differ in the seed only.
        confidence: level of the intervals.
        seed: of the resampling.

    Returns:
        Plain dict with ``env``, ``method``, ``policy_loss``, ``preset``, ``seeds`` and
        ``returns[split][protocol]`` = ``mean``, ``ci95``, ``per_seed``, ``per_episode`` and
        ``per_episode_ci95`` (two lists: lower and upper ends).

    Raises:
        ValueError: if there is no summary, a seed occurs twice, or the runs differ in environment, method,
            policy loss, preset, dataset, protocols or number of adaptation episodes.

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
    for field in ("env", "method", "policy_loss", "preset", "dataset"):
        found = sorted({json.dumps(summary.get(field), sort_keys=True) for summary in summaries})
        if len(found) > 1:
            raise ValueError(
                f"The summaries differ in {field!r}: {found}. Aggregate runs of one setting only."
            )
    seeds = [int(summary["seed"]) for summary in summaries]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"A seed occurs more than once among the summaries: {sorted(seeds)}.")
    layout = _layout(first)
    for summary in summaries[1:]:
        if _layout(summary) != layout:
            raise ValueError(
                f"The returns of seed {summary['seed']} are laid out as {_layout(summary)}, those of seed "
                f"{first['seed']} as {layout} (split/protocol: number of adaptation episodes)."
            )
    returns: dict[str, dict[str, Any]] = {}
    for split, protocols in first["returns"].items():
        returns[split] = {}
        for protocol in protocols:
            results = [summary["returns"][split][protocol] for summary in summaries]
            finals = [float(result["mean"]) for result in results]
            episodes = torch.tensor([result["per_episode"] for result in results], dtype=torch.float64)
            ends = [bootstrap_interval(column, confidence, seed) for column in episodes.unbind(1)]
            returns[split][protocol] = {
                "mean": float(np.mean(finals)),
                "ci95": list(bootstrap_interval(finals, confidence, seed)),
                "per_seed": finals,
                "per_episode": episodes.mean(0).tolist(),
                "per_episode_ci95": [[low for low, _ in ends], [high for _, high in ends]],
            }
    setting = {field: first[field] for field in ("env", "method", "policy_loss", "preset")}
    return {**setting, "seeds": seeds, "returns": returns}


def _layout(summary: Mapping[str, Any]) -> dict[str, int]:
    return {
        f"{split}/{protocol}": len(result["per_episode"])
        for split, protocols in sorted(summary["returns"].items())
        for protocol, result in sorted(protocols.items())
    }
