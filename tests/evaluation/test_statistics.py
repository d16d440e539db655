from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmrl_torchrl.evaluation import bootstrap_interval


def test_one_value_and_constant_values_give_width_zero():
    assert bootstrap_interval([-4.8]) == (-4.8, -4.8)
    assert bootstrap_interval(torch.full((6,), 2.5)) == (2.5, 2.5)


def test_close_to_the_normal_interval_for_many_values():
    values = np.random.default_rng(1).normal(-4.8, 1.0, size=400)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert low == pytest.approx(values.mean() - half, abs=0.015)
    assert high == pytest.approx(values.mean() + half, abs=0.015)


def test_bca_follows_the_skew():
    values = [0.0] * 12 + [1.0, 2.0, 8.0]
    low, high = bootstrap_interval(values)
    means = np.random.default_rng(5).choice(values, (20000, len(values))).mean(1)
    percentile = np.quantile(means, [0.025, 0.975])
    # The plain percentile interval does not reach far enough into the long tail.
    assert low > percentile[0] + 0.02 and high > percentile[1] + 0.2


def test_seed_and_confidence():
    values = np.random.default_rng(0).normal(-4.8, 0.3, size=10)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(torch.from_numpy(values), seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    wide, narrow = bootstrap_interval(values, 0.99), bootstrap_interval(values, 0.5)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=12))
def test_never_nan_and_within_the_values(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # degenerate samples must not warn either
        low, high = bootstrap_interval(values)
    margin = 1e-9 * max(1.0, *(abs(value) for value in values))
    assert min(values) - margin <= low <= high <= max(values) + margin


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "not empty"),
        ([[1.0, 2.0]], "one-dimensional"),
        ([1.0, math.nan, math.inf], r"positions \[1, 2\]"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values)


def test_bad_confidence():
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([1.0, 2.0], confidence=95)
