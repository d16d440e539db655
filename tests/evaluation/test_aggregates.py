"""Aggregates over seeds and environments, against hand-computed cases and loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmrl_torchrl.evaluation import (
    bootstrap_interval,
    interquartile_mean,
    mean_over_seeds,
    normalised_scores,
    performance_profile,
    probability_of_improvement,
)

SCORES = {"a": [0.1, 0.9, 0.4, 0.5], "b": [0.2, 0.3, 0.8]}
OTHERS = {"a": [0.4, 0.2], "b": [0.3, 0.7, 0.1, 0.2]}


def naive_iqm(values):
    values = sorted(values)
    cut = len(values) // 4
    kept = values[cut : len(values) - cut]
    return sum(kept) / len(kept)


def naive_wins(one, other):
    points = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(one, other)]
    return sum(points) / len(points)


def naive_interval(strata, statistic, resamples=3000):
    """The stratified percentile bootstrap in plain loops."""
    rng, found = np.random.default_rng(7), []
    for _ in range(resamples):
        found.append(statistic([[each[i] for i in rng.integers(0, len(each), len(each))] for each in strata]))
    return np.quantile(found, [0.025, 0.975])


def test_mean_over_seeds():
    estimate = mean_over_seeds([-4.0, -5.0, -6.0])
    assert (estimate.value, estimate.runs) == (-5.0, 3)
    assert estimate.interval == bootstrap_interval([-4.0, -5.0, -6.0])
    assert mean_over_seeds([2.0, 2.0]).interval == (2.0, 2.0)  # equal seeds: an interval of width zero


def test_interquartile_mean_by_hand():
    # eight runs: two are cut at either end
    assert interquartile_mean({"a": [9.0, 1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0, -7.0]}).value == 3.5
    # one outlier moves the mean by 100, the interquartile mean not at all
    assert interquartile_mean({"a": [1.0, 1.0, 1.0, 500.0]}).value == 1.0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=7), min_size=1, max_size=4))
def test_interquartile_mean_is_that_of_all_runs(strata):
    found = interquartile_mean({str(i): each[:1] for i, each in enumerate(strata)})
    assert found.value == pytest.approx(naive_iqm([each[0] for each in strata]), abs=1e-9)
    assert found.interval is None


def test_stratified_interval_against_a_loop():
    found = interquartile_mean(SCORES)
    expected = naive_interval(list(SCORES.values()), lambda drawn: naive_iqm(sum(drawn, [])))
    assert found.value == pytest.approx(naive_iqm(sum(SCORES.values(), [])))
    assert found.interval == pytest.approx(expected, abs=0.03)
    assert (
        found.interval == interquartile_mean(SCORES).interval != interquartile_mean(SCORES, seed=1).interval
    )


def test_resampling_stays_within_an_environment():
    """Two environments far apart, no spread within: pooled resampling would see a spread of 100."""
    assert interquartile_mean({"a": [0.0, 0.0], "b": [100.0, 100.0]}).interval == (50.0, 50.0)


def test_probability_of_improvement_by_hand():
    assert probability_of_improvement({"a": [2.0, 3.0]}, {"a": [0.0, 1.0]}).value == 1.0
    # pairs of a: 1<2, 1=1 -> half of one, 3>2, 3>1 -> 2.5 of 4; b: 0 of 1; environments weigh alike
    found = probability_of_improvement({"a": [1.0, 3.0], "b": [0.0]}, {"a": [2.0, 1.0], "b": [5.0]})
    assert found.value == pytest.approx((2.5 / 4 + 0.0) / 2)
    ties = probability_of_improvement({"a": [1.0, 1.0]}, {"a": [1.0, 1.0]})
    assert (ties.value, ties.interval) == (0.5, (0.5, 0.5))


def test_probability_of_improvement_against_loops():
    found = probability_of_improvement(SCORES, OTHERS)
    assert found.value == pytest.approx(np.mean([naive_wins(SCORES[name], OTHERS[name]) for name in SCORES]))
    assert found.value + probability_of_improvement(OTHERS, SCORES).value == pytest.approx(1.0)
    strata = [*SCORES.values(), *OTHERS.values()]
    expected = naive_interval(
        strata, lambda drawn: np.mean([naive_wins(drawn[0], drawn[2]), naive_wins(drawn[1], drawn[3])])
    )
    assert found.interval == pytest.approx(expected, abs=0.03)


def test_performance_profile():
    rng, thresholds = np.random.default_rng(3), [0.0, 0.4, 0.45, 1.0]
    scores = {"a": rng.uniform(0, 1, 30).tolist(), "b": rng.uniform(0.2, 1, 20).tolist()}
    shares, interval = performance_profile(scores, thresholds)
    values = sum(scores.values(), [])
    assert shares == pytest.approx([sum(v > t for v in values) / 50 for t in thresholds])
    for column, threshold in enumerate(thresholds):
        expected = naive_interval(
            list(scores.values()), lambda drawn, t=threshold: np.mean([v > t for v in sum(drawn, [])]), 1000
        )
        assert interval[:, column] == pytest.approx(expected, abs=0.03)
    assert performance_profile({"a": [0.5]}, [0.1])[1] is None


def test_normalised_scores():
    assert normalised_scores([-20.4, -3.9], random=-20.4, best=-3.9).tolist() == [0.0, 1.0]
    assert normalised_scores([-30.0, 0.0], random=-20.0, best=-10.0).tolist() == [-1.0, 2.0]
    for random, best, message in (
        (None, 1.0, "random return is not known"),
        (0.0, None, "best return is not"),
    ):
        with pytest.raises(ValueError, match=message):
            normalised_scores([0.5], random, best)
    with pytest.raises(ValueError, match="must exceed the random one, got 0.0 and 0.0"):
        normalised_scores([0.5], 0.0, 0.0)


@pytest.mark.parametrize(
    "estimate",
    [
        lambda one: mean_over_seeds(one),
        lambda one: interquartile_mean({"a": SCORES["a"], "b": one}),
        lambda one: probability_of_improvement(SCORES, {"a": SCORES["a"], "b": one}),
    ],
)
def test_one_seed_has_no_interval_and_bad_scores_are_named(estimate):
    assert estimate([0.5]).interval is None
    with pytest.raises(ValueError, match=r"positions \[1\]"):
        estimate([0.5, math.nan])
    with pytest.raises(ValueError, match="not empty"):
        estimate([])


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match=r"only one has \['b'\]"):
        probability_of_improvement(SCORES, {"a": [0.1]})
    with pytest.raises(ValueError, match="no environment"):
        interquartile_mean({})
    with pytest.raises(ValueError, match="confidence"):
        interquartile_mean(SCORES, confidence=95)
    with pytest.raises(ValueError, match=r"thresholds must be finite"):
        performance_profile(SCORES, [math.inf])
