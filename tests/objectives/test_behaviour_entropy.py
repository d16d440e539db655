"""ER-TRL's entropy of behavior and the GAN that imitates it, against slow, literal versions of them."""

from __future__ import annotations

import pytest
import torch
from conformance import is_loss
from tensordict import TensorDict
from term_checks import agree, draw

from ctmrl_torchrl.modules.behaviour_gan import (
    BehaviourGAN,
    discriminator_error,
    gaussian_entropy,
    generator_error,
)
from ctmrl_torchrl.modules.generative import make_behaviour_discriminator, make_behaviour_generator
from ctmrl_torchrl.objectives import MetricLoss
from ctmrl_torchrl.objectives.representation.er_trl import BehaviourEntropyLoss


def test_adversarial_errors_are_cross_entropies():
    real, fake = draw(3, 6, 1).requires_grad_(), draw(3, 6, 1, seed=1).requires_grad_()
    slow = -torch.log(real.sigmoid()).mean((1, 2)) - torch.log(1 - fake.sigmoid()).mean((1, 2))
    agree(discriminator_error(real, fake), slow, real, fake)
    agree(generator_error(fake), -torch.log(fake.sigmoid()).mean((1, 2)), fake)


def test_entropy_of_actions_task_by_task():
    actions = draw(3, 9, 2).requires_grad_()
    slow = []
    for t in range(3):
        covariance = torch.cov(actions[t].T) + 1e-5 * torch.eye(2).double()
        slow.append(torch.distributions.MultivariateNormal(torch.zeros(2).double(), covariance).entropy())
    agree(gaussian_entropy(actions), torch.stack(slow), actions)
    still = torch.zeros(1, 9, 2).requires_grad_()
    floor = gaussian_entropy(still)
    assert floor.item() / 2 == pytest.approx(-4.34, abs=0.01)
    floor.sum().backward()
    assert still.grad.isfinite().all()
    with pytest.raises(ValueError, match="at least two actions"):
        gaussian_entropy(torch.zeros(1, 1, 2))


def small_gan(seed=0, **options):
    torch.manual_seed(seed)
    sizes = dict(observation_dim=3, context_dim=4, action_dim=2, hidden=[16])
    return BehaviourGAN(
        make_behaviour_generator(**sizes), make_behaviour_discriminator(**sizes), **({"rate": 1e-2} | options)
    )


def behaviour_batch():
    torch.manual_seed(1)
    context = torch.randn(3, 1, 4)
    tensors = {"observation": torch.randn(3, 32, 3), "task_context": context.expand(3, 32, 4)}
    return TensorDict(tensors | {"action": 0.3 * torch.rand(3, 32, 2) + 0.5}, [3, 32])


def test_the_entropy_reaches_the_contexts_and_no_network():
    gan, batch = small_gan(), behaviour_batch()
    context = batch["task_context"].clone().requires_grad_()
    batch["task_context"] = context
    entropy = gan.entropy(batch, torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad(entropy.sum(), context, retain_graph=True)
    assert gradient.flatten(1).abs().sum(-1).min() > 0
    found = torch.autograd.grad(entropy.sum(), list(gan.parameters()), allow_unused=True)
    assert all(grad is None for grad in found)
    noise = torch.randn(3, 32, 20, generator=torch.Generator().manual_seed(0))
    made = gan.generator(batch["observation"], context, noise)
    torch.testing.assert_close(entropy, gaussian_entropy(made))


def test_inner_steps_are_the_published_ones():
    gan, batch = small_gan(rounds=2).double(), behaviour_batch().double()
    twin = small_gan().double()
    context = batch["task_context"].clone().requires_grad_()
    out = gan.inner_steps(batch.set("task_context", context), torch.Generator().manual_seed(0))
    assert context.grad is None and all(not value.requires_grad for value in out.values())
    assert all(parameter.grad is None for parameter in gan.parameters())
    optimizers = [torch.optim.Adam(part.parameters(), 1e-2) for part in (twin.discriminator, twin.generator)]
    generator = torch.Generator().manual_seed(0)
    state, action, z = batch["observation"], batch["action"], context.detach()
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    for _ in range(2):
        fake = twin.generator(state, z, torch.empty(3, 32, 20).double().normal_(generator=generator))
        real_logit = twin.discriminator(action, state, z)
        fake_logit = twin.discriminator(fake.detach(), state, z)
        optimizers[0].zero_grad()
        first = bce(real_logit, torch.ones_like(real_logit)) + bce(fake_logit, torch.zeros_like(fake_logit))
        first.backward()
        optimizers[0].step(), optimizers[1].zero_grad()
        judged = twin.discriminator(fake, state, z)
        second = bce(judged, torch.ones_like(judged))
        second.backward()
        optimizers[1].step()
    torch.testing.assert_close(out["loss_discriminator"], first.detach())
    torch.testing.assert_close(out["loss_generator"], second.detach())
    for name, parameter in twin.named_parameters():
        torch.testing.assert_close(gan.get_parameter(name), parameter)


def test_the_generator_comes_to_imitate_and_an_inner_loop_goes_on_where_it_stopped(tmp_path):
    gan, batch = small_gan(rounds=50, rate=3e-3), behaviour_batch()
    generator = torch.Generator().manual_seed(0)
    before = (gan._generate(batch, generator).mean((0, 1)) - batch["action"].mean((0, 1))).abs().max()
    for _ in range(4):
        gan.inner_steps(batch, generator)
    after = (gan._generate(batch, generator).mean((0, 1)) - batch["action"].mean((0, 1))).abs().max()
    assert after < 0.7 * before
    torch.save((gan.state_dict(), gan.optimizer_state()), tmp_path / "gan.pt")
    other = small_gan(seed=7, rounds=50, rate=3e-3)
    parameters, optimizers = torch.load(tmp_path / "gan.pt", weights_only=True)
    other.load_state_dict(parameters)
    other.load_optimizer_state(optimizers)
    first, second = (g.inner_steps(batch, torch.Generator().manual_seed(9)) for g in (gan, other))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=0)
    sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
    with pytest.raises(ValueError, match="not the action 'torque'"):
        BehaviourGAN(
            make_behaviour_generator(**sizes), make_behaviour_discriminator(**sizes), action="torque"
        )


def test_er_trl_without_its_weight_is_focal():
    batch = behaviour_batch()
    context = batch["task_context"][:, 0].clone().requires_grad_()
    task_id = torch.tensor([0, 0, 1])  # drawn with replacement, so that two contexts attract each other
    meta_batch = TensorDict({"task_context": context, "task_id": task_id, "transitions": batch}, [3])

    def total(loss):
        torch.manual_seed(0)
        return sum(value for name, value in loss(meta_batch).items() if is_loss(name))

    focal = total(MetricLoss(metric_weight=10.0))
    agree(total(BehaviourEntropyLoss(small_gan(), entropy_weight=0.0)), focal, context)
    weighted = total(BehaviourEntropyLoss(small_gan(), entropy_weight=2.5))
    found, expected = (torch.autograd.grad(value, context)[0] for value in (weighted, focal))
    assert not torch.allclose(found, expected)


def test_half_precision_is_computed_in_single():
    actions = torch.randn(3, 50, 2)
    entropy = gaussian_entropy(actions.bfloat16())
    assert entropy.dtype == torch.bfloat16
    torch.testing.assert_close(entropy.float(), gaussian_entropy(actions), atol=0.02, rtol=0.02)


def test_renamed_entries_go_to_the_networks_under_their_names():
    def found(state, context, action, *, own_names=False):
        torch.manual_seed(0)
        sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        generator, discriminator = make_behaviour_generator(**sizes), make_behaviour_discriminator(**sizes)
        names = {"observation": state, "task_context": context, "action": action}
        for network in () if own_names else (generator, discriminator):
            network.in_keys = [names.get(key, key) for key in network.in_keys]
        read = "action" if own_names else action
        loss = BehaviourEntropyLoss(BehaviourGAN(generator, discriminator, action=read))
        loss.set_keys(**names)
        draws = torch.Generator().manual_seed(1)
        transitions = {
            state: torch.randn(3, 8, 3, generator=draws),
            action: torch.rand(3, 8, 2, generator=draws),
        }
        contexts = torch.randn(3, 4, generator=draws)
        batch = {
            context: contexts,
            "task_id": torch.arange(3),
            "transitions": TensorDict(transitions, [3, 8]),
        }
        batch = TensorDict(batch, [3])
        torch.manual_seed(2)
        trained = loss.gan.inner_steps(loss.behaviour(batch, contexts), torch.Generator().manual_seed(3))
        return [*loss(batch).values(), *trained.values()]

    default = found("observation", "task_context", "action")
    for own_names in (False, True):
        renamed = found("state", "z", ("act", "joint"), own_names=own_names)
        torch.testing.assert_close(renamed, default)
