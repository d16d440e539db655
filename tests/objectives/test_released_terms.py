"""The released code's terms against slow, literal versions of them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmrl_torchrl.objectives.representation import (
    bilinear_contrastive,
    club_bound,
    code_contrast,
    metric_loss,
    posterior_error,
    squared_distance,
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def metric_pair_by_pair(contexts, task_id):
    same, other = [], []
    for i, j in combinations(range(len(contexts)), 2):
        distance = ((contexts[i] - contexts[j]) ** 2).mean()
        if task_id is not None and task_id[i] == task_id[j]:
            same.append((distance + 1e-3).sqrt())
        else:
            other.append(1 / (distance + 0.1))
    total = contexts.new_zeros(())
    for costs in (same, other):
        total = total + sum(costs) / (len(costs) + 1e-3)
    return total


@pytest.mark.parametrize("task_id", [None, [0, 1, 2, 3, 4], [0, 1, 0, 2, 1], [3, 3, 3, 3, 3]])
def test_metric_loss(task_id):
    contexts = draw(5, 3).requires_grad_()
    number = None if task_id is None else torch.tensor(task_id)
    fast, slow = metric_loss(contexts, number), metric_pair_by_pair(contexts, task_id)
    assert fast.shape == (5,)
    torch.testing.assert_close(fast.mean(), slow)
    expected, found = (torch.autograd.grad(value, contexts)[0] for value in (slow, fast.mean()))
    torch.testing.assert_close(found, expected)


def test_metric_loss_of_equal_contexts_is_finite():
    contexts = torch.zeros(3, 2, requires_grad=True)
    metric_loss(contexts, torch.tensor([0, 0, 1])).mean().backward()
    assert contexts.grad.isfinite().all()


def club_pair_by_pair(loc, variance, contexts, mask):
    per_task = []
    for task in range(len(contexts)):
        rows = [i for i in range(contexts.shape[1]) if mask is None or mask[task, i]]
        pairs = [(contexts[task, j] - loc[task, i]) ** 2 / variance[task, i] for i in rows for j in rows]
        own = [(contexts[task, i] - loc[task, i]) ** 2 / variance[task, i] for i in rows]
        per_task.append((sum(pairs) / len(pairs) - sum(own) / len(own)).mean())
    return torch.stack(per_task)


MASK = torch.arange(6) < torch.tensor([[6], [1], [4]])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), padded=st.booleans(), offset=st.sampled_from([0.0, 3.0]))
def test_club_is_the_mean_over_all_pairs_less_that_over_the_right_ones(seed, padded, offset):
    mask = MASK if padded else None
    loc, variance = draw(3, 6, 2, seed=seed), draw(3, 6, 2, seed=seed + 1000).exp()
    contexts = (draw(3, 6, 2, seed=seed + 2000) + offset).requires_grad_()
    fast, slow = club_bound(loc, variance, contexts, mask), club_pair_by_pair(loc, variance, contexts, mask)
    torch.testing.assert_close(fast, slow)
    expected, found = (torch.autograd.grad(value.sum(), contexts)[0] for value in (slow, fast))
    torch.testing.assert_close(found, expected)
    if padded:
        assert not found[~MASK].any()


def test_club_in_single_precision_far_from_zero():
    loc, variance, contexts = (
        50 + draw(2, 1024, 4),
        draw(2, 1024, 4, seed=1).exp(),
        50 + draw(2, 1024, 4, seed=2),
    )
    single = club_bound(loc.float(), variance.float(), contexts.float())
    torch.testing.assert_close(single.double(), club_bound(loc, variance, contexts), rtol=1e-3, atol=1e-4)


def test_club_of_what_the_guess_cannot_tell_apart_is_nothing():
    contexts = draw(3, 6, 2)
    flat = torch.full_like(contexts, 0.3)
    torch.testing.assert_close(club_bound(flat, torch.ones_like(flat), contexts), torch.zeros(3).double())
    still = contexts.mean(1, keepdim=True).expand_as(contexts)
    torch.testing.assert_close(club_bound(draw(3, 6, 2, seed=1), flat, still), torch.zeros(3).double())


@pytest.mark.parametrize("mask", [None, MASK])
def test_posterior_error_is_the_likelihood_of_a_gaussian(mask):
    loc, variance, contexts = draw(3, 6, 2), draw(3, 6, 2, seed=1).exp(), draw(3, 6, 2, seed=2)
    missing = 0.5 * math.log(2 * math.pi)
    error = -torch.distributions.Normal(loc, variance.sqrt()).log_prob(contexts) - missing
    counted = [error[t][slice(None) if mask is None else mask[t]].mean() for t in range(3)]
    torch.testing.assert_close(posterior_error(loc, variance, contexts, mask), torch.stack(counted))


def test_code_contrast():
    codes, bilinear = draw(4, 3), draw(3, 3, seed=1)
    lost = []
    for i in range(4):
        logits = [(codes[i] @ bilinear @ codes[j]).item() for j in range(4)]
        lost.append(-math.log(math.exp(logits[i]) / sum(map(math.exp, logits))))
    assert code_contrast(codes, bilinear).item() == pytest.approx(sum(lost) / 4)


@settings(max_examples=25, deadline=None)
@given(index=st.lists(st.integers(0, 3), min_size=2, max_size=7), seed=st.integers(0, 99))
def test_bilinear_contrast_is_a_sum_over_codes(index, seed):
    tasks = len(index)
    anchor, positive, bilinear = draw(tasks, 3, seed=seed), draw(tasks, 3, seed=seed + 100), draw(3, 3)
    total = 0.0
    for code in set(index):
        members = [t for t in range(tasks) if index[t] == code]
        others = members if len(members) > 1 else range(tasks)  # all others are drawn
        for t in members:
            logits = {k: (anchor[t] @ bilinear @ positive[k]).item() for k in others}
            total -= math.log(math.exp(logits[t]) / sum(map(math.exp, logits.values()))) / len(members)
    fast = bilinear_contrastive(anchor, positive, torch.tensor(index), bilinear, extra_negatives=tasks)
    assert fast.mean().item() == pytest.approx(total, abs=1e-6)


def test_squared_distance():
    first, second = draw(4, 3), draw(4, 3, seed=1)
    expected = [sum((first[t, k] - second[t, k]).item() ** 2 for k in range(3)) / 3 for t in range(4)]
    assert squared_distance(first, second).tolist() == pytest.approx(expected)
