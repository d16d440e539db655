"""The released code's terms against slow, literal versions of them."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from term_checks import agree, draw

from ctmrl_torchrl.objectives.representation import (
    bilinear_contrastive,
    code_contrast,
    metric_loss,
    squared_distance,
)


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
    fast = metric_loss(contexts, number)
    assert fast.shape == (5,)
    agree(fast.mean(), metric_pair_by_pair(contexts, task_id), contexts)


def test_metric_loss_of_equal_contexts_is_finite():
    contexts = torch.zeros(3, 2, requires_grad=True)
    metric_loss(contexts, torch.tensor([0, 0, 1])).mean().backward()
    assert contexts.grad.isfinite().all()


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
