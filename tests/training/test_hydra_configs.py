"""The YAML files and the command line: what Hydra composes must be the typed configuration."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from ctmrl_torchrl.envs import FAMILIES
from ctmrl_torchrl.methods import CQVAEConfig
from ctmrl_torchrl.objectives.policy import BRACSACConfig, IQLConfig
from ctmrl_torchrl.training.config import ExperimentConfig, register_configs
from ctmrl_torchrl.training.validate import ConfigError, validate_config

CONFIGS = Path(__file__).parents[2] / "configs"


def choices(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def hydra():
    register_configs()
    register_configs()  # safe to call twice
    with initialize_config_dir(version_base="1.3", config_dir=str(CONFIGS)):
        yield


def composed(*overrides):
    config = OmegaConf.to_object(compose("config", overrides=list(overrides)))
    assert isinstance(config, ExperimentConfig)
    return config


def test_the_default_is_a_complete_experiment():
    config = composed()
    validate_config(config)
    assert (config.env, config.method, config.preset, config.seed) == ("point_robot", "ctmrl", "quick", 0)
    assert type(config.representation) is CQVAEConfig and type(config.policy_loss) is BRACSACConfig
    assert config.run_dir == "runs/point_robot-repo/ctmrl-brac_sac-quick-seed0"
    assert config.policy_loss.hidden == [128, 128]


@pytest.mark.parametrize("env", choices("env"))
@pytest.mark.parametrize("preset", choices("preset"))
def test_every_environment_and_preset_is_valid(env, preset):
    config = composed(f"env={env}", f"preset={preset}")
    validate_config(config)
    assert config.env == env and env in FAMILIES
    assert config.preset == preset


@pytest.mark.parametrize("method", choices("method"))
@pytest.mark.parametrize("preset", choices("preset"))
@pytest.mark.parametrize("policy_loss", choices("policy_loss"))
def test_every_method_and_policy_loss_is_valid_at_every_size(method, policy_loss, preset):
    config = composed(f"method={method}", f"policy_loss={policy_loss}", f"preset={preset}")
    validate_config(config)
    kind = policy_loss.removesuffix("_standardised")
    assert config.method == method and config.policy_loss.name == kind
    assert isinstance(config.policy_loss, {"iql": IQLConfig, "brac_sac": BRACSACConfig}[kind])


@pytest.mark.parametrize("env", choices("env"))
@pytest.mark.parametrize("policy_loss", choices("policy_loss"))
@pytest.mark.parametrize("method", choices("method"))
def test_every_method_and_policy_loss_goes_with_every_environment(env, policy_loss, method):
    config = composed(f"env={env}", f"policy_loss={policy_loss}", f"method={method}")
    validate_config(config)
    assert config.env == env and config.policy_loss.name == policy_loss.removesuffix("_standardised")


def test_the_environment_chooses_the_policy_loss_that_it_is_reported_with():
    config = composed("env=ant_goal", "preset=cpu")
    assert config.policy_loss.rewards == "standardised" and config.policy_loss.temperature == 3.0
    assert config.policy_loss.target_rate == 0.05
    assert composed("env=half_cheetah_vel").policy_loss.rewards == "raw"


def test_values_of_the_command_line_win():
    config = composed(
        "schedule.updates=7",
        "representation.code_weight=0",
        "schedule.kmeans=false",
        "context.behaviours=null",
    )
    assert config.schedule.updates == 7 and config.representation.code_weight == 0.0
    assert config.schedule.kmeans is False and config.context.behaviours is None


@pytest.mark.parametrize("key", ["schedule.update", "sed", "policy_loss.expectile", "output.logging.every"])
def test_unknown_fields_are_named(key):
    with pytest.raises(ConfigCompositionException) as error:
        composed(f"{key}=1")
    assert key.split(".")[-1] in f"{error.value} {error.value.__cause__}" or key in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [("schedule.updates", "many"), ("schedule.updates", "1.5"), ("batch.repeat_tasks", "perhaps")],
)
def test_wrong_types_are_named(key, value):
    with pytest.raises(ConfigCompositionException) as error:
        composed(f"{key}={value}")
    text = f"{error.value} {error.value.__cause__}"
    assert key.split(".")[-1] in text and value in text


@pytest.mark.parametrize("choice", ["env=ant", "method=focal99", "policy_loss=ppo", "preset=huge"])
def test_unknown_choices_list_the_known_ones(choice):
    group, name = choice.split("=")
    with pytest.raises(Exception, match=f"(?s){name}.*{choices(group)[0]}"):
        composed(choice)


def test_wrong_values_are_config_errors():
    with pytest.raises(ConfigError, match="config field evaluation.protocols"):
        validate_config(composed("evaluation.protocols=[np,codes,magic]"))
    with pytest.raises(ConfigError, match="more than 20 under protocol 'codes'"):
        validate_config(composed("representation.codes=20"))


def test_a_refused_command_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-W", "ignore", str(CONFIGS.parent / "examples" / "train_ctmrl.py")]
    done = subprocess.run([*command, "batch.tasks=0"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "config field batch.tasks: got 0" in done.stderr
    assert list(tmp_path.iterdir()) == []
