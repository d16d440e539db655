"""comparison=shared and comparison=own: what is common, and what is each method's own."""

from __future__ import annotations

import pytest

from ctmrl_torchrl.collectors import InterleavedProtocol
from ctmrl_torchrl.objectives.policy import BRACSACConfig, IQLConfig, SACConfig
from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import choices, compose_config
from ctmrl_torchrl.training.validate import validate_config

OWN = sorted(file.stem for file in (config_folder() / "policy_loss" / "own").glob("*.yaml"))
ENVS = choices("env")


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("env", [env for env in ENVS if env != "dataset"])
def test_every_method_is_valid_as_published(method, env):
    config = compose_config([f"method={method}", f"env={env}", "comparison=own"])
    validate_config(config)
    assert (config.method, config.env, config.comparison) == (method, env, "own")
    assert config.run_dir == f"runs/{env}-{config.tasks}/{method}-own-quick-seed0"


@pytest.mark.parametrize("method", OWN)
def test_shared_methods_have_policy_loss_sizes_and_budget_in_common(method):
    config, common = (compose_config([f"method={name}"]) for name in (method, "focal"))
    validate_config(config)
    assert config.comparison == "shared"
    if method == "ctmrl_paper":  # raw observations belong to the paper's letter
        assert config.policy_loss.observation_gain is None
        config.policy_loss.observation_gain = common.policy_loss.observation_gain
    assert config.policy_loss == common.policy_loss and config.sizes == common.sizes
    assert config.schedule.updates == common.schedule.updates
    assert config.evaluation.episodes == common.evaluation.episodes
    if hasattr(config.encoder, "hidden"):
        assert config.encoder.hidden == common.encoder.hidden


def test_files_of_published_values_are_of_methods_and_environments():
    for file in (config_folder() / "published" / "own").glob("*.yaml"):
        method, _, env = file.stem.partition("-")
        assert method in OWN and env in ("", *ENVS), file.name


def test_the_command_line_has_the_last_word():
    own = ["method=unicorn", "comparison=own"]
    config = compose_config([*own, "policy_loss=iql", "encoder.context_dim=9"])
    assert type(config.policy_loss) is IQLConfig and config.encoder.context_dim == 9
    assert config.encoder.hidden == [64, 64]
    assert type(compose_config([*own, "env=ant_goal"]).policy_loss) is SACConfig  # not the environment's


def test_published_values_by_environment():
    def policy(method, env):
        return compose_config([f"method={method}", f"env={env}", "comparison=own"]).policy_loss

    cheetah, point = policy("csro", "half_cheetah_vel"), policy("csro", "point_robot")
    assert type(cheetah) is BRACSACConfig
    assert (cheetah.behaviour_penalty, cheetah.reward_scale, cheetah.penalty_init) == (True, 5.0, 50.0)
    assert (point.behaviour_penalty, point.reward_scale) == (False, 100.0)
    assert policy("unicorn", "half_cheetah_vel").temperature == 0.0
    assert policy("unicorn", "point_robot").temperature == 0.2


@pytest.mark.parametrize("method", OWN)
@pytest.mark.parametrize("env", ["point_robot", "ant_goal"])
def test_published_methods_train_end_to_end_on_raw_observations(method, env):
    """Neither the preset nor the settings of the MuJoCo families replace what the published code does."""
    config = compose_config([f"method={method}", f"env={env}", "comparison=own"])
    if method != "ctmrl":  # has the contexts and the schedule of this library
        assert (config.schedule.representation_end, config.schedule.policy_start) == (1.0, 0.0)
    if method != "gentle":  # its published code standardizes observations
        assert config.policy_loss.observation_gain is None
    assert config.batch.best_share == 1.0


@pytest.mark.parametrize("method", OWN)
def test_the_faster_targets_of_the_ant_are_not_published(method):
    assert (
        compose_config([f"method={method}", "env=ant_goal", "comparison=own"]).policy_loss.target_rate
        == 0.005
    )


def test_time_limits_are_terminal_where_the_releases_store_them_so():
    ending = {
        method
        for method in OWN
        if compose_config([f"method={method}", "comparison=own"]).policy_loss.timeout_is_terminal
    }
    lineage = {"ctmrl", "ctmrl_paper", "ctmrl_released", "focal", "csro", "idaq", "er_trl", "gentle"}
    assert ending == lineage
    assert not compose_config(["method=focal"]).policy_loss.timeout_is_terminal


@pytest.mark.parametrize(
    ("env", "horizon", "random"),
    [
        ("point_robot", 20, [20] * 10 + [0]),
        ("half_cheetah_vel", 200, [200, 100, 0]),
        ("ant_goal", 200, [200, 200, 0]),
    ],
)
def test_the_published_collection_of_csro(env, horizon, random):
    """As many measured episodes as the release, so that random actions end where they do there."""
    settings = compose_config(["method=csro", f"env={env}", "comparison=own", "preset=paper"]).evaluation
    protocol = InterleavedProtocol(settings.episodes, settings.prior_episodes)
    assert [protocol.random_steps(block, horizon) for block in range(len(random))] == random


def test_published_sizes_of_ctmrl():
    walker, ant = (
        compose_config(["method=ctmrl_paper", f"env={env}", "comparison=own"])
        for env in ("walker_rand_params", "ant_goal")
    )
    assert (walker.encoder.context_dim, ant.encoder.context_dim) == (40, 20)
    assert (walker.representation.codes, ant.representation.codes) == (4, 2)
    assert (walker.batch.tasks, ant.batch.tasks) == (16, 10)
    assert walker.encoder.hidden == [200] * 3 and walker.representation.predictor_hidden == [256] * 3
    assert (walker.policy_loss.penalty_max, ant.policy_loss.penalty_init) == (10_000.0, 500.0)
    released = compose_config(["method=ctmrl_released", "env=ant_goal", "comparison=own"])
    assert (released.context.kind, released.context.length) == ("transitions", 512)
    assert released.representation.club_weight == 50.0


def test_without_published_values_there_is_no_own():
    with pytest.raises(
        ConfigError, match="comparison=own: method=ctmrl_deep has no published values.*corro, csro"
    ):
        compose_config(["method=ctmrl_deep", "comparison=own"])


def test_an_unknown_comparison_is_refused():
    with pytest.raises(ConfigError, match="comparison=onw: there is no such choice. Did you mean 'own'"):
        compose_config(["comparison=onw"])
