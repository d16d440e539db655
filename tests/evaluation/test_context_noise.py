from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmrl_torchrl.evaluation import context_noise_ratio


def test_hand_computed_with_two_dimensions():
    # Task 0: (0, 0), (2, 4): variances 2 and 8. Task 1: (10, 0), (10, 0): none. within = (10 + 0) / 2 = 5.
    # Task means (1, 2) and (10, 0): variances 40.5 and 2; between = 42.5 - 5 / 2 = 40.
    contexts = torch.tensor([[[0.0, 0.0], [2.0, 4.0]], [[10.0, 0.0], [10.0, 0.0]]])
    torch.testing.assert_close(context_noise_ratio(contexts), torch.tensor(5.0 / 40.0))


def test_without_anything_left_after_the_correction_the_raw_variance_counts():
    # within = 8, raw between = 0.5, corrected 0.5 - 4 < 0.
    contexts = torch.tensor([[[0.0], [4.0]], [[1.0], [5.0]]], dtype=torch.float64)
    assert context_noise_ratio(contexts).item() == pytest.approx(8 / 0.5)


def test_extremes():
    assert context_noise_ratio(torch.tensor([[[1.0], [1.0]], [[2.0], [2.0]]])).item() == 0.0
    assert context_noise_ratio(torch.zeros(3, 4, 2)).item() == float("inf")


def test_correction_removes_the_bias_of_few_repeats():
    generator = torch.Generator().manual_seed(0)
    tasks = torch.randn(4000, 1, 5, generator=generator)
    contexts = tasks + 2.0 * torch.randn(4000, 2, 5, generator=generator)
    # True ratio 4; without the correction it would be 4 / (1 + 4 / 2) = 1.33.
    assert context_noise_ratio(contexts).item() == pytest.approx(4.0, rel=0.08)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), scale=st.floats(0.1, 10), shift=st.floats(-5, 5))
def test_scale_shift_and_order_do_not_matter(seed, scale, shift):
    contexts = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    contexts += 3 * torch.randn(
        5, 1, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    changed = contexts.flip(0, 1, 2) * scale + shift
    torch.testing.assert_close(context_noise_ratio(changed), context_noise_ratio(contexts))


@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 1, 2), (3, 2), (3, 2, 0)])
def test_shape_error_names_the_shape(shape):
    with pytest.raises(ValueError, match=r"\[n_tasks, repeats, d\].*got \["):
        context_noise_ratio(torch.zeros(shape))


def test_values_that_are_not_finite_name_the_task():
    contexts = torch.zeros(3, 2, 2)
    contexts[1, 0, 1] = float("nan")
    with pytest.raises(ValueError, match=r"task\(s\) \[1\]"):
        context_noise_ratio(contexts)
    with pytest.raises(ValueError, match="floating"):
        context_noise_ratio(torch.zeros(3, 2, 2, dtype=torch.int64))
