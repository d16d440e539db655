"""Every registered policy loss can teach the encoder, every representation can be taught, alone and stacked."""

from __future__ import annotations

import pytest
import torch
from registered import Composition, meta_batch

from ctmrl_torchrl.methods import REPRESENTATIONS
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, BRACSACLoss
from ctmrl_torchrl.objectives.stacked import StackedLoss

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def gradients(value, loss):
    parameters = [p for p in loss.context_encoder.parameters() if p.requires_grad]
    found = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(p) if grad is None else grad for p, grad in zip(parameters, found, strict=True)]


@pytest.mark.parametrize("policy_loss", POLICY_LOSSES)
def test_every_policy_loss_gives_the_gradient_of_its_critic_alone_or_of_its_only_term(policy_loss):
    made = Composition(representation="nothing", policy_loss=policy_loss)
    loss, batch = made.build(critic_gradient="all"), meta_batch()
    torch.manual_seed(3)
    out = loss(batch)
    torch.manual_seed(3)
    naive = loss.policy(loss.policy_batch(batch, loss.encode(batch, "context")))
    expected = gradients(naive["loss_bc" if policy_loss == "bc" else "loss_qvalue"], loss)
    assert any(grad.abs().sum() > 0 for grad in expected)
    total = sum(value for name, value in out.items() if name.startswith("loss_"))
    torch.testing.assert_close(gradients(total, loss), expected)
    for name, value in naive.items():
        torch.testing.assert_close(out[name], value)


@pytest.mark.parametrize("choice", ["pooling", "all"])
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_every_representation_goes_with_it_alone_and_stacked(representation, choice):
    made = Composition(representation=representation)
    agents = [made.build(seed, critic_gradient=choice) for seed in (0, 1)]
    batches = [meta_batch(seed) for seed in (0, 1)]
    alone = []
    for seed, (agent, batch) in enumerate(zip(agents, batches, strict=True)):
        torch.manual_seed(seed)
        out = agent.eval()(batch)
        alone.append(gradients(out["loss_qvalue"], agent))
        reached = sum(grad.abs().sum() for grad in alone[-1])
        assert (reached > 0) == (choice == "all")  # a mean without layers has nothing that pools
    shared = [name for name, p in agents[0].context_encoder.named_parameters() if p.requires_grad]
    stacked = StackedLoss(agents, [0, 1])
    out = stacked(torch.stack(batches))
    out["loss_qvalue"].sum().backward()
    for position, name in enumerate(shared):
        leaf = stacked.leaf_of(agents[0].context_encoder.get_parameter(name))
        grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        for row in (0, 1):
            torch.testing.assert_close(grad[row], alone[row][position], rtol=1e-4, atol=1e-5)


def test_the_weight_of_the_behavior_penalty_adapts_alone_and_stacked():
    """A buffer cannot change within the transform that finds the critic's gradient."""
    made = Composition(representation="nothing", policy_options=(("behaviour_penalty", True),))
    weights, gradient = [], {}
    for choice in ("none", "all"):
        loss, batch = made.build(critic_gradient=choice), meta_batch()
        torch.manual_seed(3)
        out = loss(batch)
        weights.append(loss.policy.penalty.item())
        expected = 50.0 + out["behaviour_divergence"].item() - loss.policy.divergence_target
        assert weights[-1] == pytest.approx(expected) != 50.0
        total = sum(value for name, value in out.items() if name.startswith("loss_"))
        gradient[choice] = gradients(total, loss)
    assert weights[0] == weights[1]
    assert not any(grad.any() for grad in gradient["none"]) and any(grad.any() for grad in gradient["all"])
    agents = [made.build(seed, critic_gradient="all") for seed in (0, 1)]
    out = StackedLoss(agents, [0, 1])(torch.stack([meta_batch(seed) for seed in (0, 1)]))
    for agent, divergence in zip(agents, out["behaviour_divergence"], strict=True):
        torch.testing.assert_close(agent.policy.penalty, 50.0 + divergence - 0.05)


@pytest.mark.parametrize("representation", ["focal", "csro", "idaq", "unicorn", "er_trl"])
def test_no_term_of_the_penalized_policy_reaches_the_encoder_of_a_metric(representation):
    made = Composition(representation=representation, policy_options=(("behaviour_penalty", True),))
    loss = made.build()
    out = loss(meta_batch())
    terms = {name: out[name] for name in loss.policy.out_keys if name.startswith("loss_")}
    assert set(terms) == {"loss_actor", "loss_qvalue", "loss_value", "loss_behaviour_critic"}
    assert not any(grad.any() for grad in gradients(sum(terms.values()), loss))
    assert any(grad.any() for grad in gradients(out["loss_metric"], loss))


def test_a_subclass_that_overrides_forward_is_called_where_its_critic_teaches():
    class Doubled(BRACSACLoss):
        def forward(self, tensordict):
            return super().forward(tensordict).apply(lambda value: 2.0 * value)

    made = Composition(representation="nothing", policy_options=(("behaviour_penalty", True),))
    outs = []
    for kind in (BRACSACLoss, Doubled):
        loss, batch = made.build(critic_gradient="all"), meta_batch()
        loss.policy.__class__ = kind
        torch.manual_seed(3)
        outs.append(loss(batch))
        expected = 50.0 + outs[-1]["behaviour_divergence"] - 0.05
        torch.testing.assert_close(loss.policy.penalty, expected)
    for name in loss.policy.out_keys:
        torch.testing.assert_close(outs[1][name], 2.0 * outs[0][name])
