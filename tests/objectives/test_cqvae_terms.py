from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ctmrl_torchrl.objectives.representation import code_classification, hard_contrastive, prediction_error


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a, b):
    return (a @ b / a.norm() / b.norm()).item()


def test_eq_3():
    context, codes, index, tau = randn(5, 3), randn(4, 3, seed=1), torch.tensor([0, 3, 1, 1, 2]), 0.2
    expected = []
    for i in range(5):
        exponentials = [math.exp(cosine(context[i], codes[j]) / tau) for j in range(4)]
        expected.append(-math.log(exponentials[index[i]] / sum(exponentials)))
    assert code_classification(context, codes, index, tau).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("padded", [False, True])
def test_squared_errors_are_means_over_real_transitions_and_dimensions(padded):
    prediction, target, scale = randn(3, 5, 2), randn(3, 5, 2, seed=1), torch.tensor([0.5, 2.0])
    mask = torch.arange(5) < torch.tensor([[5], [1], [3]])
    expected = []
    for t in range(3):
        errors = [
            ((prediction[t, i, k] - target[t, i, k]) / scale[k]).item() ** 2
            for i in range(5)
            if not padded or mask[t, i]
            for k in range(2)
        ]
        expected.append(sum(errors) / len(errors))
    result = prediction_error(prediction, target, scale, mask if padded else None)
    assert result.tolist() == pytest.approx(expected, rel=1e-5)


def test_padding_has_no_gradient_in_the_squared_error():
    prediction, mask = (
        randn(2, 3, 1).requires_grad_(),
        torch.tensor([[True, True, False], [True, False, False]]),
    )
    prediction_error(prediction, randn(2, 3, 1, seed=1), torch.ones(1), mask).sum().backward()
    assert torch.equal(prediction.grad.squeeze(-1) != 0, mask)


def information(anchor, positive, task, others, tau):
    """-log of the share of the own positive among those of ``others`` and itself."""
    exponentials = {k: math.exp(cosine(anchor[task], positive[k]) / tau) for k in {task, *others}}
    return -math.log(exponentials[task] / sum(exponentials.values()))


def eq_10(anchor, positive, index, tau, codes, extra):
    """Literally: a loop over codes, over the tasks of each, and over the negatives."""
    per_code = []
    for n in range(codes):
        tasks = [t for t in range(len(index)) if index[t] == n]
        if tasks:
            per_task = [
                information(anchor, positive, t, tasks if len(tasks) > 1 else extra[t], tau) for t in tasks
            ]
            per_code.append(sum(per_task) / len(tasks))
    return sum(per_code) / len(per_code)


@settings(max_examples=40, deadline=None)
@given(index=st.lists(st.integers(0, 4), min_size=2, max_size=8), seed=st.integers(0, 99))
def test_eq_10_with_every_other_task_as_extra(index, seed):
    tasks = len(index)
    anchor, positive = randn(tasks, 3, seed=seed), randn(tasks, 3, seed=seed + 100)
    everyone = {t: range(tasks) for t in range(tasks)}
    result = hard_contrastive(anchor, positive, torch.tensor(index), temperature=0.3, extra_negatives=tasks)
    assert result.shape == (tasks,)
    assert result.mean().item() == pytest.approx(
        eq_10(anchor, positive, index, 0.3, 5, everyone), rel=1e-3, abs=1e-4
    )


def test_rows_weigh_by_code_not_by_task():
    anchor, positive, index = randn(5, 3), randn(5, 3, seed=1), torch.tensor([0, 0, 0, 2, 2])
    rows = hard_contrastive(anchor, positive, index, temperature=0.5, extra_negatives=0)
    for t, group in enumerate([(0, 1, 2)] * 3 + [(3, 4)] * 2):
        # mean over the five rows = (1 / 2 codes) x (1 / group size) per row; codes 1 and 3... do not count
        expected = information(anchor, positive, t, group, 0.5) / 2 / len(group)
        assert rows[t].item() / 5 == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("extra_negatives", [1, 2, 4])
def test_a_task_alone_on_its_code_gets_that_many_other_tasks(extra_negatives):
    anchor, positive = randn(6, 3), randn(6, 3, seed=1)
    index, seen = torch.tensor([0, 0, 1, 0, 0, 0]), set()
    possible = {
        round(information(anchor, positive, 2, others, 0.5), 3): others
        for others in combinations([0, 1, 3, 4, 5], extra_negatives)
    }
    for seed in range(30):
        rows = hard_contrastive(
            anchor,
            positive,
            index,
            temperature=0.5,
            extra_negatives=extra_negatives,
            generator=torch.Generator().manual_seed(seed),
        )
        value = rows[2].item() / 6 * 2  # two non-empty codes, alone in its group
        seen.add(min(possible, key=lambda known: abs(known - value)))
        assert min(abs(known - value) for known in possible) < 2e-3
        # the tasks that share a code have no extra negatives
        shared = information(anchor, positive, 0, (0, 1, 3, 4, 5), 0.5)
        assert rows[0].item() / 6 * 2 * 5 == pytest.approx(shared, rel=1e-4)
    assert len({possible[value] for value in seen}) > 1  # they are drawn at random


def test_the_extra_tasks_follow_the_generator():
    anchor, positive, index = randn(8, 3), randn(8, 3, seed=1), torch.arange(8)

    def rows(seed):
        generator = torch.Generator().manual_seed(seed)
        return hard_contrastive(
            anchor, positive, index, temperature=0.1, extra_negatives=3, generator=generator
        )

    assert torch.equal(rows(0), rows(0)) and not torch.equal(rows(0), rows(1))


def test_without_extra_tasks_a_lone_task_has_nothing_to_tell():
    rows = hard_contrastive(
        randn(3, 2), randn(3, 2, seed=1), torch.arange(3), temperature=0.1, extra_negatives=0
    )
    torch.testing.assert_close(rows, torch.zeros(3))


def test_gradient_pulls_the_positive_and_pushes_only_the_same_code():
    anchor, positive = randn(4, 3).requires_grad_(), randn(4, 3, seed=1).requires_grad_()
    rows = hard_contrastive(anchor, positive, torch.tensor([0, 0, 1, 1]), temperature=0.5, extra_negatives=4)
    grad_anchor, grad_positive = torch.autograd.grad(rows[0], [anchor, positive])
    assert grad_anchor[0].abs().sum() > 0 and (grad_anchor[1:] == 0).all()
    assert (grad_positive[:2].abs().sum(-1) > 0).all() and (grad_positive[2:] == 0).all()
    assert torch.isfinite(grad_positive).all()


def test_a_task_drawn_twice_is_not_its_own_negative():
    torch.manual_seed(0)
    anchor, positive = torch.randn(3, 4), torch.randn(3, 4)
    index, task_id = torch.tensor([1, 1, 1]), torch.tensor([7, 7, 9])
    rows = hard_contrastive(anchor, positive, index, temperature=0.5, extra_negatives=0, task_id=task_id)
    logits = torch.nn.functional.cosine_similarity(anchor[:, None], positive[None], dim=-1) / 0.5
    for row, others in ((0, [2]), (1, [2]), (2, [0, 1])):
        expected = logits[row, [row, *others]].logsumexp(0) - logits[row, row]
        torch.testing.assert_close(rows[row], expected)
