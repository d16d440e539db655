"""Agents stacked into one computation: each is what it would be alone."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from tensordict import TensorDict
from tensordict.utils import NestedKey
from torch import nn
from torchrl.objectives import SoftUpdate

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import (
    BRACSACLoss,
    CTMRLLoss,
    MetaLoss,
    ReleasedCTMRLLoss,
    RepresentationLoss,
    make_iql_loss,
)
from ctmrl_torchrl.objectives.stacked import SeededDraws, StackedLoss, stack_states

TASKS, LENGTH, BATCH, LATENT = 5, 7, 6, 4
SEEDS = (3, 8, 11)
SIZES = dict(observation_dim=2, context_dim=LATENT)


def make_policy(kind, wide):
    networks = modules.make_actor(**wide), modules.make_qvalue(**wide)
    networks = *networks, modules.make_value(hidden=[8], **SIZES)
    if kind == "iql":
        return make_iql_loss(*networks)
    critic = modules.make_qvalue(**wide, out_key="witness") if kind == "penalty" else None
    return BRACSACLoss(*networks, behaviour_critic=critic)


def released_agent(features, wide):
    encoder = modules.make_context_encoder(
        feature_dims=features, context_dim=LATENT, hidden=[8], transition_key="transition_contexts"
    )
    networks = modules.make_reward_predictor(**wide), None, modules.make_behaviour_posterior(**wide)
    representation = ReleasedCTMRLLoss(modules.Codebook(3, LATENT), *networks)
    return MetaLoss(encoder, representation, make_policy("brac_sac", wide))


def agent(seed, kind="brac_sac", relabelled=0.5):
    torch.manual_seed(100 + seed)
    features = {("context", "observation"): 2, ("context", "next", "reward"): 1}
    wide = dict(action_dim=2, hidden=[8], **SIZES)
    if kind == "released":
        return released_agent(features, wide).double()
    return CTMRLLoss(
        modules.make_context_encoder(feature_dims=features, context_dim=LATENT, hidden=[8]),
        modules.Codebook(3, LATENT),
        modules.make_reward_predictor(**wide),
        modules.make_next_observation_predictor(**wide),
        make_policy(kind, wide),
        relabelled_fraction=relabelled,
    ).double()


def transitions(*shape, generator):
    def draw(size):
        return torch.randn(*shape, size, generator=generator, dtype=torch.float64)

    never = torch.zeros(*shape, 1, dtype=torch.bool)
    root = {"observation": draw(2), "action": draw(2).tanh()}
    following = {"observation": draw(2), "reward": draw(1), "done": never, "terminated": never.clone()}
    return TensorDict(root | {"next": following}, shape)


def meta_batch(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = {"context": LENGTH, "context_positive": LENGTH, "transitions": BATCH}
    parts = {name: transitions(TASKS, length, generator=generator) for name, length in lengths.items()}
    return TensorDict({**parts, "task_id": torch.arange(TASKS)}, [TASKS])


def phase(loss, name):
    loss.representation.warm_up = name == "warm-up"
    loss.representation_frozen, loss.policy_frozen = name == "policy", name == "warm-up"


def total(losses):
    return sum(value.sum() for name, value in losses.items() if name.startswith("loss_"))


@pytest.mark.parametrize("kind", ["brac_sac", "penalty", "iql", "released"])
@pytest.mark.parametrize("name", ["warm-up", "all", "policy"])
def test_every_agent_is_what_it_is_alone(name, kind):
    alone = [agent(seed, kind) for seed in SEEDS]
    together = copy.deepcopy(alone)
    for loss in (*alone, *together):
        phase(loss, name)
    stacked = StackedLoss(together, SEEDS)
    steps = range(3)
    own = [torch.optim.Adam(loss.parameters(), 1e-2) for loss in alone]
    common = torch.optim.Adam(stacked.leaves, 1e-2)
    own_targets, targets = ([SoftUpdate(loss, tau=0.1) for loss in losses] for losses in (alone, together))
    expected = []
    for loss, optimiser, target, seed in zip(alone, own, own_targets, SEEDS, strict=True):
        torch.manual_seed(seed)
        rows = []
        for step in steps:
            rows.append(loss(meta_batch(10 * seed + step)))
            total(rows[-1]).backward()
            optimiser.step()
            optimiser.zero_grad()
            target.step()
        expected.append(torch.stack([row.detach() for row in rows]))
    found = []
    for step in steps:
        losses = stacked(torch.stack([meta_batch(10 * seed + step) for seed in SEEDS]))
        total(losses).backward()
        common.step()
        common.zero_grad()
        for target in targets:
            target.step()
        found.append(losses.detach())
    torch.testing.assert_close(dict(torch.stack(found, 1).items()), dict(torch.stack(expected).items()))
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(dict(other.named_parameters()), dict(one.named_parameters()))
        torch.testing.assert_close(dict(other.named_buffers()), dict(one.named_buffers()))


def test_rows_are_views_from_both_sides():
    agents = [agent(seed) for seed in SEEDS]
    stacked = StackedLoss(agents, SEEDS)
    codes = stacked.leaf_of(agents[0].representation.codebook.codes)
    agents[1].representation.codebook.initialise_(torch.full((3, LATENT), 7.0, dtype=torch.float64))
    assert (codes[1] == 7).all() and (codes[0] != 7).any()
    with torch.no_grad():
        codes[2].fill_(5.0)
    assert (agents[2].representation.codebook.codes == 5).all()
    assert len(list(stacked.parameters())) == sum(p.requires_grad for p in agents[0].parameters())
    with pytest.raises(KeyError, match="not a parameter of the first agent"):
        stacked.leaf_of(agents[1].representation.codebook.codes)


def test_what_cannot_be_stacked_is_refused():
    agents = [agent(seed) for seed in SEEDS]
    with pytest.raises(ValueError, match="got 3 agents and 2 seeds"):
        StackedLoss(agents, SEEDS[:2])
    with pytest.raises(ValueError, match="build them identically"):
        stack_states([nn.Linear(2, 1), nn.Linear(3, 1)])
    with pytest.raises(ValueError, match="build them identically"):
        stack_states([nn.Linear(2, 1), nn.Linear(2, 1, bias=False)])
    stacked = StackedLoss(agents, SEEDS)
    agents[1].policy_frozen = True
    with pytest.raises(
        ValueError, match=r"policy_frozen differs between the agents \(\[False, True, False\]\)"
    ):
        stacked(torch.stack([meta_batch(seed) for seed in SEEDS]))


def draws_of(function, seeds=SEEDS):
    mode = SeededDraws([torch.Generator().manual_seed(seed) for seed in seeds])

    def one(row):
        mode.row = row
        with mode:
            return function()

    return torch.vmap(one, randomness="same")(torch.arange(len(seeds)))


@pytest.mark.parametrize(
    "function",
    [
        lambda: torch.rand(4, 2),
        lambda: torch.randn(3),
        lambda: torch.randint(0, 9, (5,)),
        lambda: torch.rand_like(torch.zeros(3, dtype=torch.float64)),
        lambda: torch.randn_like(torch.zeros(2, 2)),
        lambda: torch.empty(4).normal_(1.0, 2.0),
        lambda: torch.distributions.Normal(torch.zeros(3), torch.ones(3)).rsample(),
    ],
)
def test_every_agent_draws_what_it_would_draw_alone(function):
    drawn = draws_of(function)
    for row, seed in zip(drawn, SEEDS, strict=True):
        torch.manual_seed(seed)
        assert torch.equal(row, function())


def test_draws_that_would_be_shared_are_refused():
    with pytest.raises(RuntimeError, match=r"torch\.randperm, whose random numbers all agents would share"):
        draws_of(lambda: torch.randperm(4))


def test_moving_a_stack_is_refused_and_leaves_it_whole():
    stacked = StackedLoss([agent(seed) for seed in SEEDS], SEEDS)
    with pytest.raises(RuntimeError, match="move the agents first"):
        stacked.to(torch.float32)
    stacked(torch.stack([meta_batch(seed) for seed in SEEDS]))


class Decay(RepresentationLoss):
    """A loss that holds the encoder's network as well."""

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"

    default_keys = _AcceptedKeys
    out_keys = ("loss_decay",)

    def __init__(self, network):
        super().__init__()
        self.network = network

    @property
    def in_keys(self):
        return [self.tensor_keys.task_context]

    def forward(self, tensordict):
        decay = sum(parameter.square().sum() for parameter in self.network.parameters())
        nearness = (tensordict[self.tensor_keys.task_context] - 1).square().mean()
        return TensorDict({"loss_decay": decay + nearness}, [])


def test_a_shared_parameter_is_one_row_under_all_its_names():
    linears = [nn.ModuleDict({"one": linear, "two": linear}) for linear in (nn.Linear(2, 1), nn.Linear(2, 1))]
    stacked = stack_states(linears)
    assert stacked["one", "weight"] is stacked["two", "weight"]
    with torch.no_grad():
        stacked["two", "weight"].zero_()
    assert (linears[1]["one"].weight == 0).all()


def tied_agent(seed):
    torch.manual_seed(seed)
    loss = agent(seed, "iql")
    return MetaLoss(
        loss.context_encoder, Decay(loss.context_encoder.transition_network), loss.policy
    ).double()


def test_agents_with_shared_parameters_learn_as_alone():
    alone, together = [tied_agent(seed) for seed in SEEDS], [tied_agent(seed) for seed in SEEDS]
    stacked, batches = StackedLoss(together, SEEDS), [meta_batch(seed) for seed in SEEDS]
    assert len(stacked.leaves) == sum(parameter.requires_grad for parameter in alone[0].parameters())
    optimizers = [torch.optim.SGD([p for p in each.parameters() if p.requires_grad], 0.1) for each in alone]
    stacked_optimizer = torch.optim.SGD(stacked.leaves, 0.1)
    for _ in range(3):
        stacked(torch.stack(batches))["loss_decay"].sum().backward()
        stacked_optimizer.step(), stacked_optimizer.zero_grad()
        for each, batch, optimizer in zip(alone, batches, optimizers, strict=True):
            each(batch)["loss_decay"].backward()
            optimizer.step(), optimizer.zero_grad()
    for one, other in zip(alone, together, strict=True):
        for name, value in one.context_encoder.state_dict().items():
            torch.testing.assert_close(other.context_encoder.state_dict()[name], value)


def test_an_error_leaves_the_agents_as_they_were():
    agents = [agent(seed) for seed in SEEDS]
    for each in agents:
        phase(each, "policy")  # in which a forward pass changes no buffer
    stacked = StackedLoss(agents, SEEDS)
    batch = torch.stack([meta_batch(seed) for seed in SEEDS])
    before = {name: id(value) for name, value in agents[0].named_parameters()}
    buffers = {name: value.clone() for name, value in agents[0].named_buffers()}
    expected = stacked(batch)
    for generator, seed in zip(stacked.generators, SEEDS, strict=True):
        generator.manual_seed(seed)
    with pytest.raises(KeyError):
        stacked(batch.exclude(("transitions", "next", "reward")))
    assert {name: id(value) for name, value in agents[0].named_parameters()} == before
    assert all(torch.equal(value, buffers[name]) for name, value in agents[0].named_buffers())
    assert [p.requires_grad for p in agents[0].parameters()] == [
        p.requires_grad for p in agents[1].parameters()
    ]
    agents[0](meta_batch(SEEDS[0]))["loss_actor"].backward()
    for generator, seed in zip(stacked.generators, SEEDS, strict=True):
        generator.manual_seed(seed)
    again = stacked(batch)
    assert all(torch.equal(again[name], value) for name, value in expected.items())


def frozen_encoder(loss):
    loss.context_encoder.requires_grad_(False)


def another_entropy(loss):
    loss.policy.entropy_coefficient = 5.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_entropy, r"policy.entropy_coefficient is 0.01 in agent 0 and 5.0 in agent 1"),
        (frozen_encoder, r"requires_grad of context_encoder\..* is True in agent 0 and False in agent 1"),
    ],
)
def test_agents_with_other_settings_are_refused(change, told):
    agents = [agent(0), agent(0)]
    change(agents[1])
    with pytest.raises(ValueError, match=told):
        StackedLoss(agents, [0, 1])
