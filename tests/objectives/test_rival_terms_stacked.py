"""Every new term and layer: stacked over agents, traced by the compiler, never waiting for a device."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from term_checks import MASK
from test_conformance import NoReading
from torch import nn

from ctmrl_torchrl.modules.behaviour_gan import (
    discriminator_error,
    gaussian_entropy,
    generator_error,
)
from ctmrl_torchrl.modules.decoders import GaussianHead, InnerProductReward
from ctmrl_torchrl.modules.pooling import AttentionPool, NoisySquash, UnitSphere
from ctmrl_torchrl.modules.stacked_mlp import StackedMLP
from ctmrl_torchrl.modules.task_table import TaskTable
from ctmrl_torchrl.objectives.representation.anole import preference_error, table_divergence
from ctmrl_torchrl.objectives.representation.corro import transition_contrastive, vae_error
from ctmrl_torchrl.objectives.representation.likelihood import (
    autoencoder_error,
    gaussian_error,
    task_classification,
)
from ctmrl_torchrl.objectives.stacked import SeededDraws

NUMBERS = torch.tensor([2, 5, 2])
torch.manual_seed(0)
MODULES = {
    "attention": AttentionPool(4),
    "sphere": UnitSphere(),
    "head": GaussianHead(nn.Linear(4, 4), 2),
    "reward": InnerProductReward(nn.Linear(4, 2)),
    "stack": StackedMLP([3], 4, 2, [8]),
}


TERMS = {
    "gaussian_error": (lambda x, y: gaussian_error(x, y, y, MASK), [(3, 6, 2), (3, 6, 2)]),
    "autoencoder_error": (
        lambda x, y: autoencoder_error((x, x + 1), (y, y - 1), MASK),
        [(3, 6, 1), (3, 6, 2)],
    ),
    "task_classification": (lambda x: task_classification(x, NUMBERS, torch.tensor([2, 5, 7])), [(3, 3)]),
    "transition_contrastive": (transition_contrastive, [(3, 4), (3, 4), (3, 5, 4)]),
    "vae_error": (lambda x, y, m, v: vae_error((x, y), (y, x), m, v), [(3, 1), (3, 1), (3, 2), (3, 2)]),
    "discriminator_error": (discriminator_error, [(3, 6, 1), (3, 6, 1)]),
    "generator_error": (generator_error, [(3, 6, 1)]),
    "gaussian_entropy": (gaussian_entropy, [(3, 6, 2)]),
    "preference_error": (lambda x, y: preference_error(x, y, MASK[:, 1]), [(3,), (3,)]),
    "table_divergence": (table_divergence, [(3, 4), (3, 4)]),
    "attention": (lambda x: MODULES["attention"](x, MASK), [(3, 6, 4)]),
    "sphere": (MODULES["sphere"], [(3, 6, 4)]),
    "head": (lambda x: torch.cat(MODULES["head"](x), -1), [(3, 4)]),
    "reward": (MODULES["reward"], [(3, 4), (3, 2)]),
    "stack": (MODULES["stack"], [(3, 6, 4)]),
}


def inputs_of(shapes):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, *shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("name", TERMS)
def test_agents_side_by_side(name):
    term, shapes = TERMS[name]
    inputs = inputs_of(shapes)
    stacked = torch.func.vmap(term)(*inputs)
    for agent in range(2):
        torch.testing.assert_close(stacked[agent], term(*(values[agent] for values in inputs)))

    def total(*values):
        return term(*values).sum()

    gradients = torch.func.vmap(torch.func.grad(total))(*inputs)
    torch.testing.assert_close(gradients[1], torch.func.grad(total)(*(values[1] for values in inputs)))


@pytest.mark.parametrize("name", TERMS)
def test_traced_without_a_break_and_never_read_back(name):
    term, shapes = TERMS[name]
    inputs = [values[0].requires_grad_() for values in inputs_of(shapes)]
    with NoReading():
        expected = term(*inputs)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(term, fullgraph=True, backend="eager")(*inputs), expected)


def test_noisy_layers_draw_as_a_stacked_loss_lets_them():
    squash, table = NoisySquash(4), TaskTable([2, 5], 4)
    means = torch.randn(2, 3, 6, 4)
    draws = SeededDraws([torch.Generator().manual_seed(seed) for seed in (3, 4)])

    def both(row, value):
        draws.row = row
        td = table(TensorDict({"task_id": NUMBERS}, [3]))
        return squash(value), td["task_context"]

    with draws:
        codes, contexts = torch.func.vmap(both, randomness="same")(torch.arange(2), means)
    for agent, seed in enumerate((3, 4)):
        torch.manual_seed(seed)
        found = table(TensorDict({"task_id": NUMBERS}, [3]))["task_context"]
        torch.testing.assert_close(contexts[agent], found)
        torch.testing.assert_close(codes[agent], squash(means[agent]))
