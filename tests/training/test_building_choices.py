"""Every method builds its whole objective wherever a shipped study trains it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from tensordict.nn import TensorDictModuleBase
from tiny_experiments import tiny_config
from torch import nn

from ctmrl_torchrl.envs import get_family, make_task_set
from ctmrl_torchrl.methods import RepresentationConfig
from ctmrl_torchrl.modules.encoder_configs import ContextEncoderConfig
from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives.policy import PolicyLossConfig
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.studies.config import load_study
from ctmrl_torchrl.training.build import make_loss, parameter_groups
from ctmrl_torchrl.training.compose import choices, compose_config
from ctmrl_torchrl.training.config import CHOICES
from ctmrl_torchrl.training.experiment import build_experiment
from ctmrl_torchrl.training.validate import ConfigError, validate_config

pytestmark = pytest.mark.ci

STUDY = load_study("table1").factors
PAIRS = [(method, "shared") for method in choices("method")] + [(method, "own") for method in STUDY["method"]]
SMALL = [f"sizes.{name}_hidden=[8]" for name in ("encoder", "predictor", "policy")]


def problem_of(env):
    family, tasks = get_family(env), make_task_set(env)
    sizes = {
        "observation": family.observation_dim,
        "action": family.action_dim,
        ("next", "observation"): family.observation_dim,
        "observation_change": family.observation_dim,
        ("next", "reward"): 1,
        family.return_key: 1,
    }
    statistics = {key: (torch.zeros(size), torch.ones(size)) for key, size in sizes.items()}
    return Problem(
        family.observation_dim,
        family.action_dim,
        0.99,
        family.return_key,
        family.context_next_observation,
        statistics,
        len(tasks),
        tasks.standardized_parameters(),
        tasks.train_ids,
    )


@pytest.mark.parametrize(("method", "comparison"), PAIRS)
def test_every_method_builds_its_objective_in_every_environment(method, comparison):
    """Configurations that are valid alone may still not fit: CORRO's pooling learns from a critic."""
    for env in STUDY["env"]:
        config = compose_config([f"method={method}", f"env={env}", f"comparison={comparison}", *SMALL])
        loss = make_loss(config.encoder, config.representation, config.policy_loss, problem_of(env), 0)
        groups = parameter_groups(config.representation, config.policy_loss, loss)
        assert {"loss_actor", "loss_bc"} & set(loss.out_keys) and groups


@pytest.mark.parametrize(
    ("section", "base"),
    [
        ("encoder", ContextEncoderConfig),
        ("representation", RepresentationConfig),
        ("policy_loss", PolicyLossConfig),
    ],
)
def test_a_configuration_with_a_misspelt_build_is_named(section, base, tmp_path):
    @dataclass
    class VicConfig(base):
        name: str = "vic"

        def biuld(self, problem, context_dim): ...

    CHOICES[section].register("vic", VicConfig)
    try:
        config = tiny_config(tmp_path, tmp_path, **{section: VicConfig()})
        for use in (lambda: validate_config(config), lambda: VicConfig().build(None, 4)):
            with pytest.raises(ConfigError) as error:
                use()
            message = str(error.value)
            assert (
                f"{section}.name: got 'vic', but its class VicConfig has no method build(problem, " in message
            )
            assert message.endswith("Did you mean 'build' where it defines 'biuld'?")
    finally:
        CHOICES[section].unregister("vic")


class OwnEncoder(TensorDictModuleBase):
    """The mean of one entry of the transitions, in as many numbers as it is told."""

    def __init__(self, key, width):
        super().__init__()
        self.in_keys, self.out_keys = [key], ["task_context"]
        self.network = nn.LazyLinear(width)

    def forward(self, tensordict):
        return tensordict.set(
            "task_context", self.network(read(tensordict, self.in_keys[0], "OwnEncoder").mean(-2))
        )


@dataclass
class OwnEncoderConfig(ContextEncoderConfig):
    name: str = "own"
    reward_key: tuple = ("context", "next", "reward")
    width: int = 4

    def build(self, problem, transition_key=None):
        encoder = OwnEncoder(self.reward_key, self.width)
        encoder.network(torch.zeros(1, 1))
        return encoder


@pytest.fixture
def own_encoder(dataset_root, tmp_path):
    """Builds an experiment with an own encoder."""

    def build(**fields):
        encoder = OwnEncoderConfig(context_dim=4, **fields)
        changes = {"representation.kmeans_at": 0.9, "representation.kmeans_from": 0.9}
        return build_experiment(tiny_config(dataset_root, tmp_path, changes, encoder=encoder))

    CHOICES["encoder"].register("own", OwnEncoderConfig)
    yield build
    CHOICES["encoder"].unregister("own")


def test_an_encoder_of_another_width_is_named(own_encoder):
    trainer = own_encoder(width=4).trainer
    trainer.update(trainer.next_batch())
    with pytest.raises(ValueError) as error:
        own_encoder(width=7).trainer.train()
    assert "the encoder OwnEncoder wrote 7 numbers per context in key 'task_context'" in str(error.value)
    assert "expected 4, the encoder.context_dim" in str(error.value)


def test_a_missing_entry_is_named_with_the_fields_of_the_dataset(own_encoder):
    with pytest.raises(KeyError) as error:
        own_encoder(reward_key=("context", "reward")).trainer.train()
    message = str(error.value)
    assert "reads ('context', 'reward'), which the dataset lacks" in message
    assert "Did you mean ('context', 'next', 'reward')?" in message
    assert "'action', " in message and "('next', 'reward')" in message.split("Below 'context', ")[1]
