"""CORRO's contrast of single transitions, against slow, literal versions of it."""

from __future__ import annotations

import math

import pytest
import torch
from conformance import POLICIES, policy_batch, run
from tensordict import TensorDict
from term_checks import agree, draw

from ctmrl_torchrl.modules.generative import make_outcome_vae
from ctmrl_torchrl.modules.negatives import draw_latent, generated_outcomes, noisy_rewards
from ctmrl_torchrl.modules.pooling import AttentionPool, UnitSphere
from ctmrl_torchrl.objectives.representation.corro import (
    contrast_of_transitions,
    transition_contrastive,
    vae_error,
)


def unit(codes):
    return codes / codes.norm(dim=-1, keepdim=True)


def test_transition_contrast_query_by_query():
    raw = [draw(5, 4), draw(5, 4, seed=1), draw(5, 16, 4, seed=2)]
    query, key, negatives = (unit(codes).requires_grad_() for codes in raw)
    slow = []
    for b in range(5):
        right = torch.exp((query[b] * key[b]).sum() / 0.1)
        wrong = [torch.exp((query[b] * negatives[b, m]).sum() / 0.1) for m in range(16)]
        slow.append(-torch.log(right / (right + sum(wrong))))
    agree(transition_contrastive(query, key, negatives), torch.stack(slow), query, key, negatives)
    same = query.detach().unsqueeze(1).expand(5, 16, 4)
    blind = transition_contrastive(query, query, same)
    torch.testing.assert_close(blind, torch.full((5,), math.log(17.0)).double())


def test_vae_error_written_out():
    outcome = draw(5, 3), draw(5, 1, seed=1)
    prediction = draw(5, 3, seed=2).requires_grad_(), draw(5, 1, seed=3).requires_grad_()
    mean, log_variance = draw(5, 2, seed=4).requires_grad_(), draw(5, 2, seed=5).requires_grad_()
    prior = torch.distributions.Normal(torch.zeros(2).double(), torch.ones(2).double())
    divergence = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, (0.5 * log_variance).exp()), prior
    )
    slow = (prediction[0] - outcome[0]).square().mean(-1) + (prediction[1] - outcome[1]).square().mean(-1)
    slow = slow + 0.2 * divergence.sum(-1)
    agree(vae_error(outcome, prediction, mean, log_variance), slow, *prediction, mean, log_variance)
    generator = torch.Generator().manual_seed(0)
    drawn = draw_latent(torch.full((20000,), 2.0), torch.full((20000,), math.log(9.0)), generator)
    assert drawn.mean().item() == pytest.approx(2.0, abs=0.1)
    assert drawn.std().item() == pytest.approx(3.0, abs=0.1)


def one_step(*shape):
    following = {"observation": torch.randn(*shape, 3), "reward": torch.randn(*shape, 1)}
    root = {"observation": torch.randn(*shape, 3), "action": torch.randn(*shape, 2)}
    return TensorDict(root | {"next": TensorDict(following, shape)}, shape)


def test_negatives_share_state_and_action_and_leave_the_query_as_it_was():
    transitions = one_step(5)
    before = transitions.clone()
    generator = torch.Generator().manual_seed(0)
    _, decoder = make_outcome_vae(observation_dim=3, action_dim=2)
    for negatives, new in (
        (noisy_rewards(transitions, 16, generator=generator), {("next", "reward")}),
        (
            generated_outcomes(transitions, 16, decoder, 5, generator=generator),
            {("next", "reward"), ("next", "observation")},
        ),
    ):
        assert negatives.batch_size == (5, 16)
        for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
            same = (negatives[key] == transitions[key].unsqueeze(1)).all()
            assert same == (key not in new), key
            assert negatives[key].flatten(0, 1).unique(dim=0).shape[0] == (80 if key in new else 5)
            assert not negatives[key].requires_grad
        assert (transitions == before).all()
    noise = noisy_rewards(transitions.expand(400, 5), 16, generator=generator)["next", "reward"]
    noise = noise - transitions["next", "reward"].unsqueeze(1)
    assert noise.std().item() == pytest.approx(0.5, abs=0.01) and noise.mean().abs() < 0.01
    generator.manual_seed(1)
    negatives = generated_outcomes(transitions, 16, decoder, 5, generator=generator)
    latent = torch.randn(5, 16, 5, generator=torch.Generator().manual_seed(1))
    _, reward = decoder(transitions["observation"][2], transitions["action"][2], latent[2, 3])
    torch.testing.assert_close(negatives["next", "reward"][2, 3], reward.detach())


def test_all_transitions_of_a_contrast_pass_the_encoder_together():
    encoder = torch.nn.Sequential(torch.nn.Linear(9, 4), UnitSphere())
    query, key = one_step(5), one_step(5)
    negatives = noisy_rewards(query, 16, generator=torch.Generator().manual_seed(0))

    def code(td):
        return encoder(
            torch.cat([td["observation"], td["action"], td["next", "reward"], td["next", "observation"]], -1)
        )

    slow = transition_contrastive(code(query), code(key), code(negatives))
    agree(contrast_of_transitions(encoder, query, key, negatives), slow, *encoder.parameters())


@pytest.mark.filterwarnings("ignore:No target network updater")
def test_the_critics_gradient_trains_the_attention_and_not_the_frozen_codes():
    loss, batch = POLICIES["sac"].build(), policy_batch(4, 6)
    encoder, pool = torch.nn.Linear(3, 4), AttentionPool(4)
    for parameter in encoder.parameters():
        parameter.requires_grad_(False)
    context = pool(encoder(torch.randn(4, 7, 3)))
    batch["task_context"] = context.unsqueeze(1).expand(4, 6, 4)
    out = run(loss, batch)
    (gradient,) = torch.autograd.grad(out["loss_qvalue"], pool.score.weight, retain_graph=True)
    assert gradient.abs().sum() > 0
    nothing = torch.autograd.grad(out["loss_actor"], list(pool.parameters()), allow_unused=True)
    assert nothing == (None, None)
