"""Policy losses of users: an agent is rebuilt from networks(), so these must be what build() trains."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from tiny_experiments import tiny_config
from torch import nn

from ctmrl_torchrl.modules import make_actor
from ctmrl_torchrl.objectives import make_iql_loss
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.outcome import agent_of

EMPTY = {"env": "point_robot", "returns": {}, "versions": {}}


def with_tanh(module):
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU):
            setattr(module, name, nn.Tanh())
        else:
            with_tanh(child)
    return module


@dataclass
class OwnNetworks(PolicyLossConfig):
    """The actor of networks() is the one that is trained."""

    name: str = "own_networks"

    def networks(self, problem, context_dim):
        actor, critic, value = super().networks(problem, context_dim)
        return with_tanh(actor), critic, value

    def build(self, problem, context_dim):
        return make_iql_loss(*self.networks(problem, context_dim), gamma=problem.discount)


@dataclass
class OtherActivation(PolicyLossConfig):
    """Equal weights, other actions."""

    name: str = "other_activation"

    def build(self, problem, context_dim):
        actor, critic, value = self.networks(problem, context_dim)
        return make_iql_loss(with_tanh(actor), critic, value, gamma=problem.discount)


@dataclass
class OtherSizes(PolicyLossConfig):
    """Weights that do not fit."""

    name: str = "other_sizes"

    def build(self, problem, context_dim):
        arguments = self.network_arguments(problem, context_dim) | {"hidden": (5,)}
        _, critic, value = self.networks(problem, context_dim)
        actor = make_actor(**arguments, action_dim=problem.action_dim)
        return make_iql_loss(actor, critic, value, gamma=problem.discount)


@pytest.fixture(autouse=True)
def registered():
    classes = {each.name: each for each in (OwnNetworks, OtherActivation, OtherSizes)}
    for name, each in classes.items():
        POLICY_LOSSES.register(name, each)
    yield
    for name in classes:
        POLICY_LOSSES.unregister(name)


@pytest.mark.parametrize("policy_loss", [OtherActivation, OtherSizes])
def test_an_actor_that_an_agent_could_not_rebuild_is_refused_before_training(policy_loss, tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", policy_loss=policy_loss())
    with pytest.raises(ConfigError, match="policy_loss.name: the actor that .* trains .*override networks"):
        build_experiment(config)


def test_the_agent_has_the_actor_of_networks(tmp_path):
    experiment = build_experiment(tiny_config(tmp_path / "data", tmp_path / "run", policy_loss=OwnNetworks()))
    actor = agent_of(experiment, EMPTY).actor
    assert any(isinstance(module, nn.Tanh) for module in actor.modules())
