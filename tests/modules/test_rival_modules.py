"""Networks of the methods that CTMRL is compared with."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from term_checks import agree, draw
from torch import nn
from torch.nn import functional

from ctmrl_torchrl.modules.decoders import (
    GaussianHead,
    make_gaussian_predictor,
    make_preference_reward,
    make_transition_decoder,
)
from ctmrl_torchrl.modules.generative import (
    make_behaviour_discriminator,
    make_behaviour_generator,
    make_outcome_vae,
)
from ctmrl_torchrl.modules.initialization import lineage_init_, truncated_normal_
from ctmrl_torchrl.modules.pooling import AttentionPool, NoisySquash, UnitSphere
from ctmrl_torchrl.modules.stacked_mlp import StackedMLP
from ctmrl_torchrl.modules.task_table import TaskTable

SIZES = {"observation_dim": 3, "action_dim": 2, "context_dim": 4}


def test_attention_weights_sum_to_one_and_follow_the_codes():
    pool, codes = AttentionPool(4).double(), draw(3, 7, 4).requires_grad_()
    scores = codes @ pool.score.weight[0] + pool.score.bias
    weights = scores.exp() / scores.exp().sum(-1, keepdim=True)
    agree(pool.weights(codes), weights, codes)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3).double())
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pool.weights(codes[:, order]), weights[:, order])
    torch.testing.assert_close(pool(codes[:, order]), pool(codes))
    by_hand = [sum(weights[t, step] * codes[t, step] for step in range(7)) for t in range(3)]
    agree(pool(codes), torch.stack(by_hand), codes, *pool.parameters())


def test_attention_leaves_padding_out():
    pool, codes = AttentionPool(4).double(), draw(3, 7, 4)
    mask = torch.arange(7) < torch.tensor([[7], [2], [0]])
    spoilt = codes.masked_fill(~mask.unsqueeze(-1), torch.inf).requires_grad_()
    context = pool(spoilt, mask)
    torch.testing.assert_close(context[1], pool(codes[1, :2]))
    torch.testing.assert_close(context[0], pool(codes[0]))
    assert not context[2].any()
    weights = pool.weights(codes, mask)
    torch.testing.assert_close(weights.sum(-1), torch.tensor([1.0, 1.0, 0.0]).double())
    assert not weights[~mask].any()
    pool(codes.requires_grad_(), mask).sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in pool.parameters())


def test_codes_on_the_sphere_average_to_at_most_length_one():
    codes = UnitSphere()(draw(3, 7, 4))
    torch.testing.assert_close(codes.norm(dim=-1), torch.ones(3, 7).double())
    assert (AttentionPool(4).double()(codes).norm(dim=-1) <= 1 + 1e-12).all()


def test_noisy_squash_draws_around_the_mean_with_the_learned_variance():
    squash = NoisySquash(2).double()
    squash.log_variance.data = torch.tensor([-5.0, 9.0]).double()
    torch.testing.assert_close(squash.variance(), torch.tensor([0.1, 10.0]).double())
    squash.log_variance.data = torch.tensor([0.0, -1.0]).double()
    means = draw(3, 2)
    torch.manual_seed(4)
    codes = squash(means)
    torch.manual_seed(4)
    noise = torch.randn(1, 3, 2, dtype=torch.float64)[0]
    deviations = torch.tensor([1.0, 2.718281828459045**-0.5]).double()
    torch.testing.assert_close(codes, torch.tanh(means + deviations * noise))
    codes.sum().backward()
    assert squash.log_variance.grad.abs().min() > 0
    squash.draws = 4000
    calm = squash(torch.full((1, 2), 2.0).double())
    assert (
        calm < torch.tensor(2.0).double().tanh() - 0.02
    ).all()  # the scale that dropping noise would change


def test_task_table_looks_up_its_rows():
    table = TaskTable([4, 0, 7], 5, generator=torch.Generator().manual_seed(0)).double()
    table.log_std.data = draw(3, 5, seed=1)
    td = TensorDict({"task_id": torch.tensor([7, 4, 4])}, [3])
    torch.manual_seed(2)
    found = table(td)["task_context"]
    torch.manual_seed(2)
    noise = torch.randn(3, 5, dtype=torch.float64)
    rows = torch.tensor([2, 0, 0])
    torch.testing.assert_close(found, table.mean[rows] + table.log_std[rows].exp() * noise)
    found[0].sum().backward()
    assert table.mean.grad[2].abs().min() > 0 and not table.mean.grad[:2].any()
    table.noisy = False
    torch.testing.assert_close(table(td)["task_context"], table.mean[rows])
    assert table(TensorDict({"task_id": torch.tensor([1])}, [1]))["task_context"].isnan().all()


def test_candidates_cover_every_task_before_any_twice():
    table = TaskTable(range(5), 3)
    table.log_std.data.fill_(-20.0)
    found = table.candidates(9, torch.Generator().manual_seed(0))
    torch.testing.assert_close(found[:5], table.mean.detach())
    distance = torch.cdist(found[5:], table.mean.detach()).amin(-1)
    assert found.shape == (9, 3) and (distance < 1e-5).all() and not found.requires_grad
    assert table.candidates(2).shape == (2, 3)


@pytest.mark.parametrize("task_ids", [[1, 1], [0.5], []])
def test_a_table_lists_every_task_once(task_ids):
    with pytest.raises(ValueError, match="give the id of every training task once"):
        TaskTable(task_ids, 3)


def test_a_table_reads_whole_numbers():
    with pytest.raises(ValueError, match="'task_id' must hold integer task ids"):
        TaskTable([0], 3)(TensorDict({"task_id": torch.zeros(2)}, [2]))


def test_a_stack_is_its_networks_one_by_one():
    network = StackedMLP([2, 3], 4, 2, [8, 8], generator=torch.Generator().manual_seed(0)).double()
    inputs = draw(2, 3, 5, 4)
    found = network(inputs)
    for task in range(2):
        for member in range(3):
            values = inputs[task, member]
            for number in range(3):
                weight, bias = network.weights[number][task, member], network.biases[number][task, member]
                values = values @ weight + bias
                values = functional.silu(values) if number < 2 else values
            torch.testing.assert_close(found[task, member], values)
    torch.testing.assert_close(
        network(inputs[:1, :1])[1, 2], network(inputs[:1, :1].expand(2, 3, 5, 4))[1, 2]
    )
    rates = [2.5e-5, 5e-5]
    weights = [weight[1, 2] for weight in network.weights]
    expected = sum(
        0.5 * rate * (weight**2).sum() for rate, weight in zip([*rates, 5e-5], weights, strict=True)
    )
    torch.testing.assert_close(network.decay(rates)[1, 2], expected)
    with pytest.raises(ValueError, match="the inputs have 3 features, the networks expect 4"):
        network(draw(5, 3))


def test_initial_weights():
    network = nn.Sequential(nn.Linear(50, 400), nn.ReLU(), nn.Linear(400, 100), nn.Linear(100, 50))
    lineage_init_(network, generator=torch.Generator().manual_seed(0))
    for layer, bound in ((network[0], 400**-0.5), (network[2], 0.1)):
        assert 0.99 * bound < layer.weight.abs().max() <= bound
        assert (layer.bias == 0.1).all()
    assert 0.0028 < network[3].weight.abs().max() <= 0.003 and network[3].bias.abs().max() <= 0.003
    with pytest.raises(ValueError, match=r"no nn\.Linear layer"):
        lineage_init_(nn.ReLU())
    weight = truncated_normal_(torch.empty(300, 300), 4, torch.Generator().manual_seed(0))
    assert weight.abs().max() <= 0.5
    # of a normal cut off at two deviations
    assert weight.std().item() == pytest.approx(0.25 * 0.8796, rel=0.02)


def test_gaussian_head_holds_the_log_variance_between_its_bounds():
    head = GaussianHead(nn.Identity(), 2).double()
    raw = (draw(6, 4) * 20).requires_grad_()
    loc, log_variance = head(raw)
    torch.testing.assert_close(loc, raw[:, :2])
    softplus = functional.softplus
    expected = head.most - softplus(head.most - raw[:, 2:])
    expected = head.least + softplus(expected - head.least)
    agree(log_variance, expected, raw, head.least, head.most)
    assert (log_variance >= -10).all() and (log_variance <= 0.5 + 1e-3).all()
    assert head.least.unique().item() == -10.0 and head.most.unique().item() == 0.5
    assert head.bound_width().item() == 21.0
    (log_variance.sum() + head.bound_width()).backward()
    assert head.least.grad.any() and head.most.grad.any()


def test_factories_read_and_write_what_they_say():
    predictor = make_gaussian_predictor(**SIZES, out_features=3)
    first = next(layer for layer in predictor.modules() if isinstance(layer, nn.Linear))
    assert first.weight.abs().max() <= 1 / 9**0.5
    decoder = make_transition_decoder(**SIZES, hidden=[8], lineage_init=True)
    observation, action, context = torch.randn(5, 3), torch.randn(5, 2), torch.randn(5, 4)
    reward, following = decoder(observation, action, context)
    assert reward.shape == (5, 1)
    assert (following - observation).abs().max() < 0.1  # a small change at first
    only = make_transition_decoder(**SIZES, next_observation=False)
    assert only.out_keys == ["reward_prediction"] and only(observation, action, context).shape == (5, 1)
    encoder, vae = make_outcome_vae(observation_dim=3, action_dim=2)
    td = TensorDict({"observation": observation, "action": action}, [5])
    td["next"] = TensorDict({"observation": observation, "reward": reward}, [5])
    td = vae(encoder(td).set("latent", torch.randn(5, 5)))
    assert td["latent_log_variance"].shape == (5, 5) and td["next_observation_prediction"].shape == (5, 3)
    generator = make_behaviour_generator(**SIZES, lineage_init=True)
    action = generator(observation, context, torch.randn(5, 20))
    assert action.shape == (5, 2) and (action.abs() < 1).all()
    assert make_behaviour_discriminator(**SIZES, lineage_init=True)(action, observation, context).shape == (
        5,
        1,
    )


@pytest.mark.parametrize("next_observation", [False, True])
def test_preference_reward(next_observation):
    module = make_preference_reward(**SIZES, next_observation=next_observation).double()
    features = 8 if next_observation else 5
    fragments, candidates = draw(7, 6, features), draw(9, 4, seed=1)
    values = module.module.of_candidates(fragments, candidates)
    for n in (0, 8):
        for m in (0, 6):
            pieces = [fragments[m, :, :3], fragments[m, :, 3:5]]
            pieces += [fragments[m, :, 5:]] if next_observation else []
            rewards = module(*pieces, candidates[n].expand(6, 4))
            torch.testing.assert_close(values[n, m], rewards.sum())
            embedded = module.module.embedding(fragments[m])
            torch.testing.assert_close(rewards[2, 0], torch.tanh((embedded[2] * candidates[n]).sum()))
