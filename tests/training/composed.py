"""Composes configurations as the command line does, for tests of what is accepted and refused."""

from __future__ import annotations

import pytest

from ctmrl_torchrl.objectives.policy import POLICY_LOSSES
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.config import DATA_ALONE, ExperimentConfig
from ctmrl_torchrl.training.validate import validate_config


def composed(*overrides):
    config = compose_config(overrides)
    assert isinstance(config, ExperimentConfig)
    return config


def check_combination(**chosen):
    """Compose and validate these choices; every one of them must have had its say."""
    overrides = [f"{group}={name}" for group, name in chosen.items()]
    if chosen.get("env") == DATA_ALONE:
        overrides += ["dataset.path=somewhere", "evaluation.protocols=[]"]
    config = composed(*overrides)
    validate_config(config)
    assert (config.env, config.method, config.preset) == tuple(
        chosen.get(group, default)
        for group, default in (("env", "point_robot"), ("method", "ctmrl"), ("preset", "quick"))
    )
    if "policy_loss" in chosen:
        assert config.policy_loss.label == chosen["policy_loss"]
        assert type(config.policy_loss) is POLICY_LOSSES.get(config.policy_loss.name)


def refused(*overrides):
    """The one line that refuses these overrides."""
    with pytest.raises(ConfigError) as error:
        validate_config(composed(*overrides))
    text = str(error.value)
    assert "\n" not in text
    return text
