"""Bootstrap intervals and aggregates for comparing methods.

The aggregates follow Agarwal et al. (*Deep Reinforcement Learning at the Edge of the Statistical
Precipice*, 2021), computed with SciPy. Each docstring names the function of the ``rliable`` package that
returns the same value. *Runs* are one score per seed; a *stratum* is the runs of one environment.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "interquartile_mean",
    "mean_over_seeds",
    "normalised_scores",
    "performance_profile",
    "probability_of_improvement",
]

_RESAMPLES = 9999
_BATCH = 2_000_000

Scores = Sequence[float] | np.ndarray | Tensor
Strata = Mapping[str, Scores]


@dataclass(frozen=True)
class Estimate:
    """A number with its bootstrap interval.

    Args:
        value: the estimate.
        interval: lower and upper end; ``None`` for a single seed.
        runs: number of runs.
    """

    value: float
    interval: tuple[float, float] | None
    runs: int


def bootstrap_interval(values: Scores, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Bootstrap confidence interval of the mean.

    This is the bias-corrected and accelerated (BCa) interval. If it is undefined (degenerate resamples), the
    percentile interval is used. A single value or equal values give an interval of width zero.

    Args:
        values: one-dimensional and finite, e.g. the final returns of tasks or seeds.
        confidence: level between 0 and 1.
        seed: seed of the resampling; the same seed gives the same interval.

    Returns:
        The lower and the upper end; never NaN.

    Raises:
        ValueError: if there are no values, a value is not finite, or the level is out of range.

    Example:
        >>> low, high = bootstrap_interval([-4.7, -4.9, -4.8, -5.0])
        >>> -5.0 <= low < -4.85 < high <= -4.7
        True
        >>> bootstrap_interval([3.0])
        (3.0, 3.0)
    """
    _check_confidence(confidence)
    sample = _sample(values, "values")
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    interval = _bootstrap((sample,), np.mean, confidence, seed, "BCa")
    if not np.isfinite(interval).all():  # degenerate BCa intervals are NaN
        interval = _bootstrap((sample,), np.mean, confidence, seed, "percentile")
    return float(interval[0]), float(interval[1])


def mean_over_seeds(values: Scores, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean over seeds with its BCa bootstrap interval.

    A single seed has no interval. rliable's ``aggregate_mean`` of one environment is the same mean, with a
    percentile interval, which is narrower for few or skewed values.

    Args:
        values: one score per seed.
        confidence, seed: see :func:`bootstrap_interval`.

    Raises:
        ValueError: see :func:`bootstrap_interval`.

    Example:
        >>> mean_over_seeds([-4.0])
        Estimate(value=-4.0, interval=None, runs=1)
        >>> mean_over_seeds([-4.0, -6.0]).value
        -5.0
    """
    _check_confidence(confidence)
    sample = _sample(values, "values")
    interval = None if sample.size < 2 else bootstrap_interval(sample, confidence, seed)
    return Estimate(float(sample.mean()), interval, sample.size)


def interquartile_mean(scores: Strata, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Interquartile mean of all runs of all environments, with a stratified bootstrap interval.

    A quarter of the runs (rounded down) is discarded at either end. Resampling draws seeds with replacement
    within each environment; the interval is the percentile interval. rliable's ``aggregate_iqm`` with
    ``get_interval_estimates`` gives the same value and, up to sampling, the same interval.

    Args:
        scores: ``{environment: one score per seed}``; the environments may have different numbers of seeds.
            Apply :func:`normalised_scores` first; otherwise environments with large returns dominate.
        confidence, seed: see :func:`bootstrap_interval`.

    Returns:
        The estimate; without an interval if any environment has a single seed, because its variation over
        seeds is then unknown.

    Raises:
        ValueError: if there is no environment, or as in :func:`bootstrap_interval`.

    Example:
        >>> interquartile_mean({"a": [0.0, 1.0], "b": [2.0, 9.0]}).value  # the middle half is 1 and 2
        1.5
    """
    _check_confidence(confidence)
    from scipy.stats import trim_mean  # slow to import

    strata = _strata(scores, "scores")

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    value = float(statistic(*strata))
    interval = None
    if min(each.size for each in strata) >= 2:
        interval = _bootstrap(strata, statistic, confidence, seed, "percentile")
    return Estimate(value, interval, sum(each.size for each in strata))


def probability_of_improvement(
    first: Strata, second: Strata, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Probability that a run of the first method scores higher than a run of the second.

    In each environment it is the Mann-Whitney statistic divided by the number of pairs, ``U / (n m)``: the
    fraction of pairs in which the first scores higher, with ties counted half. The estimate is the mean over
    environments; the interval is a percentile interval with seeds resampled per method and environment.
    rliable's ``probability_of_improvement`` is the same value.

    Args:
        first, second: ``{environment: one score per seed}`` for the same environments.
        confidence, seed: see :func:`bootstrap_interval`.

    Returns:
        The estimate, from 0 to 1; without an interval if any environment has a single seed of either method.

    Raises:
        ValueError: if the environments differ; otherwise see :func:`interquartile_mean`.

    Example:
        >>> probability_of_improvement({"a": [1.0, 3.0]}, {"a": [2.0, 2.0]}).value
        0.5
    """
    _check_confidence(confidence)
    if set(first) != set(second):
        only = sorted(set(first) ^ set(second))
        raise ValueError(
            f"Both methods need runs of the same environments, but only one has {only}. "
            "Compare them on the environments that both have."
        )
    from scipy.stats import mannwhitneyu  # slow to import

    ones, others = _strata(first, "first"), _strata({name: second[name] for name in first}, "second")
    value = float(
        np.mean(
            [
                mannwhitneyu(one, other).statistic / (one.size * other.size)
                for one, other in zip(ones, others, strict=True)
            ]
        )
    )

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        pairs = zip(samples[: len(ones)], samples[len(ones) :], strict=True)
        return np.mean([_share_of_wins(one, other) for one, other in pairs], axis=0)

    interval = None
    if min(each.size for each in (*ones, *others)) >= 2:
        interval = _bootstrap((*ones, *others), statistic, confidence, seed, "percentile")
    return Estimate(value, interval, sum(each.size for each in (*ones, *others)))


def performance_profile(
    scores: Strata, thresholds: Scores, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Fraction of runs that score above each threshold, with a pointwise stratified bootstrap interval.

    rliable's ``create_performance_profile`` with ``run_score_deviation`` is the same curve. All runs
    have equal weight, regardless of their environment.

    Args:
        scores: ``{environment: one score per seed}``.
        thresholds: one-dimensional, in any order.
        confidence, seed: see :func:`bootstrap_interval`.

    Returns:
        The fractions, of shape ``[thresholds]``, and the ends of their intervals, ``[2, thresholds]``, or
        ``None`` if any environment has a single seed.

    Raises:
        ValueError: see :func:`interquartile_mean`.

    Example:
        >>> performance_profile({"a": [0.2, 0.4], "b": [0.6, 0.8]}, [0.0, 0.4, 0.7])[0].tolist()
        [1.0, 0.5, 0.25]
    """
    _check_confidence(confidence)
    strata, levels = _strata(scores, "scores"), _sample(thresholds, "thresholds")
    above = tuple((each[None, :] > levels[:, None]).astype(np.float64) for each in strata)

    def statistic(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.concatenate(samples, axis=axis).mean(axis=axis)

    interval = None
    if min(each.size for each in strata) >= 2:
        interval = np.stack(_bootstrap(above, statistic, confidence, seed, "percentile"))
    return statistic(*above), interval


def normalised_scores(values: Scores, random: float | None, best: float | None) -> np.ndarray:
    """Normalize returns so that the random policy is 0 and the optimum (or the oracle) is 1.

    An oracle is a learned policy with privileged task information, so scores above 1 are possible with it.

    Args:
        values: returns of one environment.
        random: mean return of the uniformly random policy.
        best: optimal return, or the oracle's return if the optimum is unknown.

    Raises:
        ValueError: if a reference is missing or the best return does not exceed the random one.

    Example:
        >>> normalised_scores([-20.0, -12.0, -4.0], random=-20.0, best=-4.0).tolist()
        [0.0, 0.5, 1.0]
    """
    sample = _sample(values, "values")
    if random is None or best is None:
        missing = "random" if random is None else "best"
        raise ValueError(f"Scores cannot be normalized: the {missing} return is not known.")
    if not np.isfinite([random, best]).all() or best <= random:
        raise ValueError(
            "Scores cannot be normalized: the best return must exceed the random one, "
            f"got {best} and {random}."
        )
    return (sample - random) / (best - random)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}.")


def _sample(values: Scores, name: str) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or sample.size == 0:
        raise ValueError(f"{name} must be one-dimensional and not empty, got the shape {list(sample.shape)}.")
    if not np.isfinite(sample).all():
        where = np.flatnonzero(~np.isfinite(sample)).tolist()
        raise ValueError(f"{name} must be finite, but the values at positions {where} are not.")
    return sample


def _strata(scores: Strata, name: str) -> tuple[np.ndarray, ...]:
    if not scores:
        raise ValueError(f"{name} contains no environment; expected at least one.")
    return tuple(_sample(values, f"{name}[{key!r}]") for key, values in scores.items())


def _share_of_wins(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    difference = one[..., :, None] - other[..., None, :]
    return ((np.sign(difference) + 1) / 2).mean(axis=(-2, -1))


def _bootstrap(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    confidence: float,
    seed: int,
    method: str,
) -> tuple[Any, Any]:
    from scipy.stats import bootstrap  # slow to import

    size = sum(each.size for each in samples)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # degenerate resamples cause warnings; callers handle NaN
        result = bootstrap(
            tuple(samples),
            statistic,
            confidence_level=confidence,
            n_resamples=_RESAMPLES,
            method=method,
            vectorized=True,
            axis=-1,
            batch=max(1, min(_RESAMPLES, _BATCH // size)),
            rng=np.random.default_rng(seed),
        )
    low, high = result.confidence_interval.low, result.confidence_interval.high
    return (float(low), float(high)) if np.ndim(low) == 0 else (low, high)
