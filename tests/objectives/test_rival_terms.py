"""Terms of UNICORN, CORRO, ER-TRL and ANOLE against slow, literal versions of them."""

from __future__ import annotations

import math
from itertools import combinations, permutations

import pytest
import torch
from conformance import POLICIES, policy_batch, run
from tensordict import TensorDict

from ctmrl_torchrl.modules import make_context_encoder
from ctmrl_torchrl.modules.generative import (
    make_behaviour_discriminator,
    make_behaviour_generator,
    make_outcome_vae,
)
from ctmrl_torchrl.modules.masked import masked_mean
from ctmrl_torchrl.modules.pooling import AttentionPool, NoisySquash, UnitSphere
from ctmrl_torchrl.objectives.policy.behaviour_divergence import dual_divergence
from ctmrl_torchrl.objectives.representation import club_bound, metric_loss
from ctmrl_torchrl.objectives.representation.behaviour_entropy import (
    BehaviourGAN,
    discriminator_error,
    gaussian_entropy,
    generator_error,
)
from ctmrl_torchrl.objectives.representation.club import posterior_error
from ctmrl_torchrl.objectives.representation.likelihood import (
    autoencoder_error,
    gaussian_error,
    task_classification,
)
from ctmrl_torchrl.objectives.representation.terms import prediction_error, prediction_norm
from ctmrl_torchrl.objectives.representation.transition_contrast import (
    contrast_of_transitions,
    draw_latent,
    draw_other_transitions,
    draw_queries_and_keys,
    generated_outcomes,
    noisy_rewards,
    transition_contrastive,
    vae_error,
)

MASK = torch.arange(6) < torch.tensor([[6], [1], [4]])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(fast, slow, *inputs):
    """Same value and same gradient to every input."""
    torch.testing.assert_close(fast, slow)
    for found, expected in zip(
        *(torch.autograd.grad(value.sum(), inputs, retain_graph=True) for value in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(found, expected)


pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

# CSRO


def test_a_detached_centre_gives_the_shortened_bound_a_wrong_gradient():
    loc, variance = draw(3, 64, 2), draw(3, 64, 2, seed=1).exp()
    contexts = (draw(3, 64, 2, seed=2) + 1.0).requires_grad_()

    def shortened(centre):
        weight, moved, guess = 1 / variance, contexts - centre, loc - centre
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
    centred = [values - values.mean(1, keepdim=True) for values in (loc, contexts)]
    expected = 2 / 0.7 * (centred[0] * centred[1]).mean(1)
    torch.testing.assert_close(club_bound(loc, torch.full_like(loc, 0.7), contexts), expected.mean(-1))


def test_the_dual_divergence_starts_where_the_sheet_says():
    start = dual_divergence(torch.zeros(1).double(), torch.zeros(1).double())
    assert start.item() == pytest.approx(-0.0597, abs=5e-5)


# UNICORN


@pytest.mark.parametrize("mask", [None, MASK])
def test_gaussian_error_is_a_likelihood(mask):
    loc, log_variance = draw(3, 6, 2).requires_grad_(), draw(3, 6, 2, seed=1).requires_grad_()
    target = draw(3, 6, 2, seed=2)
    likelihood = torch.distributions.Normal(loc, (0.5 * log_variance).exp()).log_prob(target)
    literal = -2 * likelihood - math.log(2 * math.pi)
    slow = [literal[t][slice(None) if mask is None else mask[t]].mean() for t in range(3)]
    agree(gaussian_error(loc, log_variance, target, mask), torch.stack(slow), loc, log_variance)


def test_padding_may_hold_anything():
    target = draw(3, 6, 2).masked_fill(~MASK.unsqueeze(-1), torch.nan)
    loc = draw(3, 6, 2, seed=1).requires_grad_()
    error = gaussian_error(loc, torch.zeros_like(loc), target, MASK)
    assert error.isfinite().all()
    assert masked_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]


def test_unicorn_without_decoder_is_focal_with_a_noisy_encoder():
    features = {("context", "observation"): 2, ("context", "next", "reward"): 1}
    encoder = make_context_encoder(feature_dims=features, context_dim=4, hidden=(8,))
    quiet = make_context_encoder(feature_dims=features, context_dim=4, hidden=(8,))
    quiet.load_state_dict(encoder.state_dict())
    encoder.transition_network[-1] = NoisySquash(4)
    context = TensorDict({"observation": torch.randn(3, 7, 2)}, [3, 7])
    context["next"] = TensorDict({"reward": torch.randn(3, 7, 1)}, [3, 7])
    td, task_id = TensorDict({"context": context}, [3]), torch.tensor([0, 0, 1])
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
    assert metric_loss(found, task_id).mean() != metric_loss(quiet(td)["task_context"], task_id).mean()


def test_task_classification():
    logits = draw(4, 3).requires_grad_()
    task_id, columns = torch.tensor([8, 2, 2, 5]), torch.tensor([2, 5, 8])
    place = {8: 2, 2: 0, 5: 1}
    slow = [
        -torch.log(logits[row].exp()[place[int(task_id[row])]] / logits[row].exp().sum()) for row in range(4)
    ]
    agree(task_classification(logits, task_id, columns), torch.stack(slow), logits)


# GENTLE


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


# CORRO


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


def test_queries_and_keys_are_of_one_task_and_others_of_any():
    number = torch.arange(24).view(4, 6)
    tasks = TensorDict({"number": number, "task": torch.arange(4).unsqueeze(-1).expand(4, 6)}, [4, 6])
    query, key = draw_queries_and_keys(tasks, 4000, torch.Generator().manual_seed(0))
    assert torch.equal(query["task"], key["task"])
    for drawn in (query, key):
        assert (drawn["number"].bincount(minlength=24) / 4000 - 1 / 24).abs().max() < 0.02
    same = (query["number"] == key["number"]).float().mean().item()
    assert same == pytest.approx(1 / 6, abs=0.03)  # drawn independently: the same one is not excluded
    others = draw_other_transitions(tasks, 250, 16, torch.Generator().manual_seed(0))
    assert others.batch_size == (250, 16)
    assert (others["number"].flatten().bincount(minlength=24) / 4000 - 1 / 24).abs().max() < 0.02


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


# ER-TRL


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
    gan, batch, task_id = small_gan(), behaviour_batch(), torch.tensor([0, 0, 1])
    context = batch["task_context"][:, 0].clone().requires_grad_()
    batch["task_context"] = context.unsqueeze(1).expand(3, 32, 4)

    def objective(weight):
        entropy = gan.entropy(batch, torch.Generator().manual_seed(0))
        return 10 * metric_loss(context, task_id).mean() - weight * entropy.mean()

    focal = 10 * metric_loss(context, task_id).mean()
    agree(objective(0.0), focal, context)
    assert (torch.autograd.grad(objective(2.5), context)[0] - torch.autograd.grad(focal, context)[0]).any()
    pairs = [(i, j) for i, j in combinations(range(3), 2) if task_id[i] == task_id[j]]
    assert pairs == [(0, 1)]  # tasks were drawn with replacement, so that something attracts


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), 1e30])
def test_padding_may_hold_any_values(spoilt):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    bad = torch.where(mask.unsqueeze(-1), values, spoilt)
    expected = torch.stack([values[0, :2].mean(0), values[1, 0]])
    torch.testing.assert_close(masked_mean(bad, mask, -2), expected)
    torch.testing.assert_close(masked_mean(bad[..., 0], mask), expected[:, 0])
    zeros = torch.zeros_like(values)
    for error in (
        lambda x: prediction_error(x, zeros, torch.ones(4), mask),
        lambda x: prediction_norm(x, zeros, mask),
        lambda x: club_bound(zeros, zeros + 1.0, x, mask),
        lambda x: posterior_error(zeros, zeros + 1.0, x, mask),
    ):
        torch.testing.assert_close(error(bad), error(values))


def test_club_is_zero_on_average_where_contexts_are_shuffled():
    """The mean over all orders of four contexts, which then say nothing about the transitions."""
    generator = torch.Generator().manual_seed(0)
    loc, contexts = (torch.randn(1, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    variance = torch.rand(1, 4, 3, generator=generator, dtype=torch.float64) + 0.3
    orders = [torch.tensor(order) for order in permutations(range(4))]
    bounds = torch.cat([club_bound(loc, variance, contexts[:, order]) for order in orders])
    assert bounds.abs().max() > 0.1
    torch.testing.assert_close(bounds.mean(), torch.zeros((), dtype=torch.float64))
