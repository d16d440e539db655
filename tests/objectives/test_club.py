"""CLUB, the bound on what contexts say about behavior, against all pairs written out."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from term_checks import MASK, agree, draw

from ctmrl_torchrl.objectives.representation import club_bound, posterior_error


def club_pair_by_pair(loc, variance, contexts, mask):
    per_task = []
    for task in range(len(contexts)):
        rows = [i for i in range(contexts.shape[1]) if mask is None or mask[task, i]]
        pairs = [(contexts[task, j] - loc[task, i]) ** 2 / variance[task, i] for i in rows for j in rows]
        own = [(contexts[task, i] - loc[task, i]) ** 2 / variance[task, i] for i in rows]
        per_task.append((sum(pairs) / len(pairs) - sum(own) / len(own)).mean())
    return torch.stack(per_task)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 99), padded=st.booleans(), offset=st.sampled_from([0.0, 3.0]))
def test_club_is_the_mean_over_all_pairs_less_that_over_the_right_ones(seed, padded, offset):
    mask = MASK if padded else None
    loc, variance = draw(3, 6, 2, seed=seed), draw(3, 6, 2, seed=seed + 1000).exp()
    contexts = (draw(3, 6, 2, seed=seed + 2000) + offset).requires_grad_()
    fast, slow = club_bound(loc, variance, contexts, mask), club_pair_by_pair(loc, variance, contexts, mask)
    agree(fast, slow, contexts)
    if padded:
        assert not torch.autograd.grad(fast.sum(), contexts)[0][~MASK].any()


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


def test_club_is_zero_on_average_where_contexts_are_shuffled():
    """Over all orders of four contexts, contexts say nothing about the transitions."""
    loc, contexts, variance = draw(1, 4, 3), draw(1, 4, 3, seed=1), draw(1, 4, 3, seed=2).exp()
    orders = [torch.tensor(order) for order in permutations(range(4))]
    bounds = torch.cat([club_bound(loc, variance, contexts[:, order]) for order in orders])
    assert bounds.abs().max() > 0.1
    torch.testing.assert_close(bounds.mean(), torch.zeros((), dtype=torch.float64))


def test_a_detached_centre_gives_the_shortened_bound_a_wrong_gradient():
    loc, variance = draw(3, 64, 2), draw(3, 64, 2, seed=1).exp()
    contexts = (draw(3, 64, 2, seed=2) + 1.0).requires_grad_()

    def shortened(center):
        weight, moved, guess = 1 / variance, contexts - center, loc - center
        rest = (weight - weight.mean(1, keepdim=True)) * moved.square()
        return (2 * (weight * guess * moved).mean(1) - rest.mean(1)).mean(-1)

    right = club_bound(loc, variance, contexts)
    trap = shortened(contexts.mean(1, keepdim=True).detach())
    torch.testing.assert_close(trap, right)  # nothing to see in the value
    found, wrong, moving = (
        torch.autograd.grad(value.sum(), contexts)[0]
        for value in (right, trap, shortened(contexts.mean(1, keepdim=True)))
    )
    torch.testing.assert_close(found, moving)
    assert (found - wrong).abs().max() > 1e-3


def test_with_a_constant_variance_the_bound_decorrelates():
    loc, contexts = draw(3, 64, 2), draw(3, 64, 2, seed=1)
    centered = [values - values.mean(1, keepdim=True) for values in (loc, contexts)]
    expected = 2 / 0.7 * (centered[0] * centered[1]).mean(1)
    torch.testing.assert_close(club_bound(loc, torch.full_like(loc, 0.7), contexts), expected.mean(-1))


@pytest.mark.parametrize("mask", [None, MASK])
def test_posterior_error_is_the_likelihood_of_a_gaussian(mask):
    loc, logarithm, contexts = (draw(3, 6, 2, seed=seed).requires_grad_() for seed in range(3))
    variance = logarithm.exp()
    missing = 0.5 * math.log(2 * math.pi)
    error = -torch.distributions.Normal(loc, variance.sqrt()).log_prob(contexts) - missing
    counted = [error[t][slice(None) if mask is None else mask[t]].mean() for t in range(3)]
    agree(posterior_error(loc, variance, contexts, mask), torch.stack(counted), loc, logarithm, contexts)
