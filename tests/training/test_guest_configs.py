"""Families, methods and losses of a user's own are choices of the command line like all others."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from composed import check_combination, composed, refused
from hydra.core.config_store import ConfigStore

from ctmrl_torchrl.envs import EnvFamily, register_family, unregister_family
from ctmrl_torchrl.methods import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.objectives import NoRepresentationLoss
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, BRACSACConfig
from ctmrl_torchrl.rules import SHARE, WIDTHS, ConfigError, ruled
from ctmrl_torchrl.training.compose import choices, compose_config, register_configs, register_method


@dataclass
class Pull(RepresentationConfig):
    """A guest's representation configuration."""

    name: str = "pull"
    strength: float = ruled(0.5, SHARE)
    widths: list[int] = ruled([8], WIDTHS)

    def build(self, problem, context_dim):
        return NoRepresentationLoss()


@dataclass
class Tamed(BRACSACConfig):
    """A guest's policy loss."""

    name: str = "tamed"


@pytest.fixture
def guests():
    """A family, a representation with a method, and a policy loss, registered for one test."""
    register_family(
        EnvFamily(
            name="guest_family",
            observation_dim=3,
            action_dim=1,
            horizon=5,
            parameter_names=("mass",),
            sample_parameters=lambda count: torch.linspace(1, 2, count, dtype=torch.float64).unsqueeze(-1),
            env_builder="nowhere:nothing",
        )
    )
    REPRESENTATIONS.register("pull", Pull)
    POLICY_LOSSES.register("tamed", Tamed)
    register_method(
        "pulled",
        representation={"name": "pull", "widths": "${sizes.predictor_hidden}"},
        batch={"repeat_tasks": True},
    )
    register_configs()
    yield
    unregister_family("guest_family")
    REPRESENTATIONS.unregister("pull")
    POLICY_LOSSES.unregister("tamed")
    repository = ConfigStore.instance().repo
    for group, name in (
        ("env", "guest_family"),
        ("method", "pulled"),
        ("policy_loss", "tamed"),
        ("policy_loss_schema", "tamed"),
        ("representation_schema", "pull"),
    ):
        repository[group].pop(f"{name}.yaml")


def test_guests_are_choices_like_all_others(guests):
    for group, name in (("env", "guest_family"), ("method", "pulled"), ("policy_loss", "tamed")):
        assert name in choices(group)
        for preset in choices("preset"):
            check_combination(**{group: name, "preset": preset})
    check_combination(env="guest_family", method="pulled", policy_loss="tamed")
    config = composed("method=pulled", "policy_loss=tamed", "preset=cpu", "representation.strength=0.25")
    assert type(config.representation) is Pull and config.representation.strength == 0.25
    assert config.representation.widths == config.sizes.predictor_hidden == [128, 128]
    assert type(config.policy_loss) is Tamed and config.policy_loss.hidden == [256, 256]
    assert config.batch.repeat_tasks and config.encoder.hidden == config.sizes.encoder_hidden
    assert "Did you mean 'guest_family'" in refused("env=guest_famly")
    assert "config field representation.strength: got 2.0, allowed is a number from 0 to 1" in refused(
        "method=pulled", "representation.strength=2"
    )
    assert composed("env=guest_family", "preset=paper").tasks == "repo"  # the only task set that it has
    assert "tasks: got 'paper', allowed is one of repo" in refused("env=guest_family", "tasks=paper")
    assert "representation.strenght: there is no such field" in refused(
        "method=pulled", "representation.strenght=0.1"
    )


def test_guests_leave_no_trace():
    assert not {"guest_family", "pulled", "tamed"} & {
        *choices("env"),
        *choices("method"),
        *choices("policy_loss"),
    }


@pytest.mark.parametrize(
    "overrides, told",
    [
        (["env=cart"], "env=cart: there is no such choice. Known: .* needs the file .*: --plugin FILE.py"),
        (["env=point_robt"], "Did you mean 'point_robot'\\? Known: [^.]*\\.$"),
        (["method=of_nobody"], "representation loss 'vic': there is no such choice. .*--plugin FILE.py"),
    ],
)
def test_a_choice_of_the_users_own_needs_its_file(overrides, told):
    register_method("of_nobody", representation="vic")
    try:
        with pytest.raises(ConfigError, match=told):
            compose_config(overrides)
    finally:
        del ConfigStore.instance().repo["method"]["of_nobody.yaml"]


@pytest.mark.parametrize(
    ("override", "advice", "sections"),
    [
        ("encoder.name=table", "register_method(NAME, ..., encoder='table')",
         {"representation": "focal", "encoder": "table"}),
        ("representation.name=csro", "register_method(NAME, representation='csro')", {"representation": "csro"}),
    ],
)  # fmt: skip
def test_the_advice_for_a_whole_section_composes(override, advice, sections):
    assert advice in refused(override)
    register_method("advised", **sections)
    try:
        config = composed("method=advised")
        assert {section: getattr(config, section).name for section in sections} == sections
    finally:
        ConfigStore.instance().repo["method"].pop("advised.yaml")
    assert "policy_loss=iql" in refused("policy_loss.name=iql")
