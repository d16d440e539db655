"""``reset_parameters_recursive`` of a composed loss leaves nothing as it was."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.methods import REPRESENTATIONS
from ctmrl_torchrl.modules import EncoderConfig, TaskTableConfig
from ctmrl_torchrl.objectives import RepresentationLoss
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.training.build import make_loss

ENCODER_OF = {
    "anole": TaskTableConfig(context_dim=4),
    "corro": EncoderConfig(context_dim=4, hidden=[8], pool="attention", last="unit"),
    "unicorn": EncoderConfig(context_dim=4, hidden=[8], last="noisy"),
}


def problem():
    sizes = {
        "observation": 3,
        "action": 2,
        ("next", "reward"): 1,
        ("next", "observation"): 3,
        "observation_change": 3,
    }
    statistics = {key: (torch.zeros(size), torch.ones(size)) for key, size in sizes.items()}
    return Problem(3, 2, 0.9, ("next", "reward"), True, statistics, num_tasks=5, train_ids=tuple(range(5)))


@pytest.mark.parametrize("name", sorted(REPRESENTATIONS))
def test_every_parameter_and_the_penalty_get_new_values(name):
    encoder = ENCODER_OF.get(name, EncoderConfig(context_dim=4, hidden=[8]))
    policy = BRACSACConfig(hidden=[8], behaviour_penalty=True)
    loss = make_loss(encoder, REPRESENTATIONS.get(name)(), policy, problem(), 0)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(5.0)
        loss.policy.penalty.fill_(5.0)
    loss.reset_parameters_recursive()
    unchanged = [key for key, value in loss.named_parameters() if value.numel() and (value == 5.0).all()]
    assert unchanged == [] and loss.policy.penalty == policy.penalty_init


def test_the_penalty_sums_small_steps_in_half_precision():
    loss = BRACSACConfig(hidden=[8], behaviour_penalty=True).build(problem(), 4)
    loss.to(torch.bfloat16)
    assert loss.penalty.dtype == torch.float32 and loss.double().penalty.dtype == torch.float64
    with torch.no_grad():
        for _ in range(100):
            loss.side_effects(TensorDict({"behaviour_divergence": torch.tensor(0.06)}, []))
    assert loss.penalty.item() == pytest.approx(50 + 100 * 0.01, abs=1e-3)


class WithLayers(RepresentationLoss):
    """A user's loss with layers of its own."""

    out_keys = ("loss_none",)
    in_keys = ("task_context",)

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))


def test_the_layers_of_a_users_loss_get_new_values():
    loss = WithLayers()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.fill_(5.0)
    loss.reset_parameters_recursive()
    assert not any((value == 5.0).all() for value in loss.parameters())
