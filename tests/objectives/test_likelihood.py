"""Terms that make contexts explain transitions, of UNICORN and GENTLE, against slow versions of them."""

from __future__ import annotations

import math

import pytest
import torch
from tensordict import TensorDict
from term_checks import MASK, agree, draw

from ctmrl_torchrl.modules import make_context_encoder
from ctmrl_torchrl.objectives.representation.likelihood import (
    autoencoder_error,
    gaussian_error,
    task_classification,
)


@pytest.mark.parametrize("mask", [None, MASK])
def test_gaussian_error_is_a_likelihood(mask):
    loc, log_variance = draw(3, 6, 2).requires_grad_(), draw(3, 6, 2, seed=1).requires_grad_()
    target = draw(3, 6, 2, seed=2)
    likelihood = torch.distributions.Normal(loc, (0.5 * log_variance).exp()).log_prob(target)
    literal = -2 * likelihood - math.log(2 * math.pi)
    slow = [literal[t][slice(None) if mask is None else mask[t]].mean() for t in range(3)]
    agree(gaussian_error(loc, log_variance, target, mask), torch.stack(slow), loc, log_variance)


@pytest.mark.parametrize("mask", [None, MASK])
def test_autoencoder_error_is_one_mean_over_both_outcomes(mask):
    reward, following = draw(3, 6, 1).requires_grad_(), draw(3, 6, 2, seed=1).requires_grad_()
    true_reward, true_following = draw(3, 6, 1, seed=2), draw(3, 6, 2, seed=3)
    slow = []
    for t in range(3):
        errors = []
        for step in range(6):
            if mask is None or mask[t, step]:
                errors.append((reward[t, step, 0] - true_reward[t, step, 0]) ** 2)
                errors += [(following[t, step, k] - true_following[t, step, k]) ** 2 for k in range(2)]
        slow.append(sum(errors) / len(errors))
    fast = autoencoder_error((reward, true_reward), (following, true_following), mask)
    agree(fast, torch.stack(slow), reward, following)


def test_task_classification():
    logits = draw(4, 3).requires_grad_()
    task_id, columns = torch.tensor([8, 2, 2, 5]), torch.tensor([2, 5, 8])
    place = {8: 2, 2: 0, 5: 1}
    slow = [
        -torch.log(logits[row].exp()[place[int(task_id[row])]] / logits[row].exp().sum()) for row in range(4)
    ]
    agree(task_classification(logits, task_id, columns), torch.stack(slow), logits)


def test_unicorn_without_decoder_is_focal_with_a_noisy_encoder():
    features = {("context", "observation"): 2, ("context", "next", "reward"): 1}
    sizes = dict(feature_dims=features, context_dim=4, hidden=(8,))
    encoder, quiet = make_context_encoder(**sizes, last="noisy"), make_context_encoder(**sizes)
    quiet.load_state_dict(encoder.state_dict(), strict=False)  # all but the variance of the noise
    context = TensorDict({"observation": torch.randn(3, 7, 2)}, [3, 7])
    context["next"] = TensorDict({"reward": torch.randn(3, 7, 1)}, [3, 7])
    td = TensorDict({"context": context}, [3])
    with torch.no_grad():
        encoder.transition_network[-1].log_variance.fill_(0.0)
        torch.manual_seed(0)
        found = encoder(td.clone())["task_context"]
        torch.manual_seed(0)
        means = quiet.transition_network[:-1](
            torch.cat([context["observation"], context["next", "reward"]], -1)
        )
        expected = torch.tanh(means + torch.randn(1, 3, 7, 4)[0]).mean(1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, quiet(td)["task_context"])


def test_an_unknown_task_makes_the_classification_nan():
    error = task_classification(torch.zeros(2, 3), torch.tensor([77, 3]), torch.tensor([3, 5, 9]))
    assert error[0].isnan() and error[1].exp().item() == pytest.approx(3)
