"""Random functions inside stacked agents: each gets the numbers of a single run, or the loss says why not."""

from __future__ import annotations

import pytest
import torch
from meta_batches import meta_batch, policy_loss
from torch import nn
from torch.distributions import Exponential

from ctmrl_torchrl.modules import ContextEncoder
from ctmrl_torchrl.objectives import MetaLoss, MetricLoss
from ctmrl_torchrl.objectives.stacked import StackedLoss


class Noisy(nn.Module):
    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, codes):
        return codes + self.noise(codes)


def in_place(codes):
    noise = torch.zeros_like(codes)
    noise.normal_(0.5, 2.0)
    return noise


def agent(noise):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), Noisy(noise))
    encoder = ContextEncoder(network, in_keys=[("context", "observation")])
    return MetaLoss(encoder, MetricLoss(), policy_loss())


def batches():
    one = meta_batch()
    one["task_id"] = torch.arange(5)
    return one, torch.stack([one, one.clone()])


@pytest.mark.parametrize(
    "noise",
    [
        lambda codes: torch.randn(codes.shape),
        torch.rand_like,
        lambda codes: torch.zeros_like(codes).normal_(),
        lambda codes: torch.empty(codes.shape).normal_(0.5, 2.0),
        in_place,
    ],
    ids=["randn", "rand_like", "batched normal_", "normal_", "normal_ in place"],
)
def test_each_agent_has_the_numbers_of_a_single_run(noise):
    one, two = batches()
    alone = []
    for seed in (3, 4):
        single = agent(noise)
        torch.manual_seed(seed)
        alone.append(single(one)["loss_metric"])
    stacked = StackedLoss([agent(noise), agent(noise)], seeds=[3, 4])(two)["loss_metric"]
    assert alone[0] != alone[1]
    torch.testing.assert_close(stacked, torch.stack(alone))


@pytest.mark.parametrize(
    "noise",
    [
        nn.Dropout(0.5),
        lambda codes: torch.empty_like(codes).uniform_(),
        lambda codes: torch.empty_like(codes).exponential_(),
        lambda codes: torch.empty_like(codes).bernoulli_(0.5),
        lambda codes: Exponential(torch.ones_like(codes)).rsample(),
    ],
    ids=["dropout", "uniform_", "exponential_", "bernoulli_", "rsample"],
)
def test_numbers_that_all_agents_would_share_are_refused(noise):
    stacked = StackedLoss([agent(noise), agent(noise)], seeds=[3, 4])
    with pytest.raises(RuntimeError, match=r"global generator.*all agents would share them; use torch\.rand"):
        stacked(batches()[1])


def test_a_generator_of_ones_own_is_refused():
    def drawn(codes):
        return torch.randn(codes.shape, generator=torch.Generator().manual_seed(7))

    stacked = StackedLoss([agent(drawn), agent(drawn)], seeds=[3, 4])
    with pytest.raises(RuntimeError, match=r"torch\.randn with a generator"):
        stacked(batches()[1])


def test_a_tensor_of_all_agents_that_is_filled_in_place_is_never_used_unfilled():
    def lost(codes):
        noise = torch.zeros(codes.shape)
        noise.normal_()
        return noise

    losses = StackedLoss([agent(lost), agent(lost)], seeds=[3, 4])(batches()[1])
    assert losses["loss_metric"].isnan().all()


def test_a_network_that_is_evaluated_may_have_dropout():
    noise = nn.Dropout(0.5).eval()
    agents = [agent(noise), agent(noise)]
    for each in agents:
        each.context_encoder.eval()
    losses = StackedLoss(agents, seeds=[3, 4])(batches()[1])
    assert losses["loss_metric"].isfinite().all()
