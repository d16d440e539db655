"""The YAML files and the command line: what is composed must be the typed configuration."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest
from composed import check_combination, composed, refused

from ctmrl_torchrl.methods import REPRESENTATIONS, CQVAEConfig, FOCALConfig
from ctmrl_torchrl.modules import EncoderConfig
from ctmrl_torchrl.modules.encoder_configs import TaskParametersConfig
from ctmrl_torchrl.objectives.policy import BCConfig, BRACSACConfig, IQLConfig
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import (
    MOVED,
    choices,
    compose_config,
    config_folder,
    fields_by_name,
    register_configs,
)
from ctmrl_torchrl.training.validate import validate_config

EXAMPLES = Path(__file__).parents[2] / "examples"
GROUPS = ("env", "method", "policy_loss", "preset")


def all_pairs(groups):
    """Few combinations in which every two choices of different groups meet."""
    places = [group for group, names in groups.items() for _ in names]
    names = [name for group in groups.values() for name in group]
    missing = {
        pair for pair in combinations(range(len(names)), 2) if len({places[place] for place in pair}) == 2
    }
    while missing:
        row = dict(zip(groups, (None for _ in groups), strict=True))
        for place in min(missing):
            row[places[place]] = place
        for group in groups:
            if row[group] is None:
                held = [place for place in row.values() if place is not None]
                row[group] = max(
                    (place for place in range(len(names)) if places[place] == group),
                    key=lambda place, held=held: sum(tuple(sorted((place, h))) in missing for h in held),
                )
        missing -= set(combinations(sorted(row.values()), 2))
        yield {group: names[place] for group, place in row.items()}


register_configs()
PAIRS = list(all_pairs({group: choices(group) for group in GROUPS}))


def test_every_two_choices_meet():
    for first, second in combinations(GROUPS, 2):
        met = {(row[first], row[second]) for row in PAIRS}
        assert met == set(product(choices(first), choices(second)))


@pytest.mark.parametrize("chosen", PAIRS, ids=lambda row: ",".join(row.values()))
def test_every_choice_is_valid_with_every_other(chosen):
    check_combination(**chosen)


@pytest.mark.slow
@pytest.mark.parametrize("method", choices("method"))
@pytest.mark.parametrize("policy_loss", choices("policy_loss"))
def test_every_method_and_policy_loss_is_valid_at_every_size_and_in_every_environment(method, policy_loss):
    for preset in choices("preset"):
        check_combination(method=method, policy_loss=policy_loss, preset=preset)
    for env in choices("env"):
        check_combination(method=method, policy_loss=policy_loss, env=env)


def test_the_default_is_a_complete_experiment():
    config = composed()
    validate_config(config)
    assert (config.env, config.method, config.preset, config.seed) == ("point_robot", "ctmrl", "quick", 0)
    assert type(config.representation) is CQVAEConfig and type(config.policy_loss) is BRACSACConfig
    assert type(config.encoder) is EncoderConfig
    assert config.run_dir == "runs/point_robot-repo/ctmrl-brac_sac-quick-seed0"
    assert config.policy_loss.hidden == [128, 128]


def test_presets_speak_of_sizes_that_methods_and_policy_losses_take_over():
    config = composed("preset=paper", "method=ctmrl_released", "sizes.policy_hidden=[7]")
    assert config.encoder.hidden == config.sizes.encoder_hidden == [200, 200, 200]
    assert config.representation.predictor_hidden == config.sizes.predictor_hidden == [256, 256, 256]
    assert config.policy_loss.hidden == [7]


def test_the_policy_loss_that_is_chosen_is_built_from_its_own_class():
    assert isinstance(composed("policy_loss=iql").policy_loss, IQLConfig)
    assert isinstance(composed("policy_loss=brac_sac").policy_loss, BRACSACConfig)
    standardised = composed("policy_loss=iql_standardised").policy_loss
    assert isinstance(standardised, IQLConfig) and standardised.rewards == "standardised"


def test_the_environment_chooses_the_policy_loss_that_it_is_reported_with():
    config = composed("env=ant_goal", "preset=cpu")
    assert isinstance(config.policy_loss, BCConfig) and config.batch.best_share == 0.1
    assert config.schedule.policy_start == config.schedule.representation_end
    assert isinstance(composed("env=point_robot").policy_loss, BRACSACConfig)
    other = composed("env=ant_goal", "preset=cpu", "policy_loss=iql_standardised")
    assert other.policy_loss.temperature == 3.0 and other.policy_loss.target_rate == 0.05
    assert other.batch.best_share == 1.0


def test_what_a_method_needs_on_an_environment_goes_with_the_two():
    assert composed("env=sparse_point_robot").representation.codes == 16
    assert composed("env=point_robot").representation.codes == 8
    assert composed("env=sparse_point_robot", "representation.codes=6").representation.codes == 6


def test_the_oracle_is_a_method_that_is_told_the_task():
    config = composed("method=oracle", "env=sparse_point_robot")
    assert type(config.encoder) is TaskParametersConfig and config.representation.name == "nothing"
    assert config.evaluation.protocols == ["told"]


def test_values_of_the_command_line_win():
    config = composed(
        "schedule.updates=7",
        "representation.code_weight=0",
        "representation.kmeans=false",
        "context.behaviours=null",
        "seeds=[0,1]",
    )
    assert config.schedule.updates == 7 and config.representation.code_weight == 0.0
    assert config.representation.kmeans is False and config.context.behaviours is None
    assert config.seeds == [0, 1]


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("schedule.update", "Did you mean schedule.updates"),
        ("schdule.updates", "Did you mean schedule.updates"),
        ("sed", "Did you mean seed"),
        ("methd", "Did you mean method"),
        ("policy_loss.expectile", "It is a field of policy_loss.name=iql."),
        ("representation.cycle_weight", "It is a field of representation.name=released."),
        ("output.logging.every", "Did you mean output.log_every"),
        ("evaluation.collector.kid", "Did you mean evaluation.collector.kind"),
    ],
)
def test_unknown_fields_are_named_with_the_nearest(key, suggestion):
    text = refused(f"{key}=1")
    assert text.startswith(f"config field {key}: there is no such field.") and suggestion in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("schedule.updates", "many"),
        ("schedule.updates", "1.5"),
        ("batch.repeat_tasks", "perhaps"),
        ("context.trajectories", "3"),
        ("representation.codes", "null"),
    ],
)
def test_wrong_types_are_named(key, value):
    text = refused(f"{key}={value}")
    assert text.startswith(f"config field {key}: ")
    assert value in text or {"3": "int is not a List", "null": "not Optional"}[value] in text


@pytest.mark.parametrize(
    "key", ["overwrite", "batch.repeat_tasks", "representation.kmeans", "output.figures"]
)
@pytest.mark.parametrize("value", ["7", "0", "1", "0,1"])
def test_numbers_are_no_switches(key, value):
    assert refused(f"{key}={value}") == f"config field {key}: got {value}, allowed is true or false."


@pytest.mark.parametrize(
    ("choice", "nearest"),
    [
        ("env=ant", "ant_goal"),
        ("env=point_robt", "point_robot"),
        ("method=focal99", "focal"),
        ("policy_loss=iqll", "iql"),
        ("policy_loss=xxxx", None),
        ("preset=quik", "quick"),
        ("preset=zzzzzz", None),
        ("dataset=smal", "small"),
        ("encoder_schema=pool", "pooling"),
    ],
)
def test_unknown_choices_list_the_known_ones_and_the_nearest(choice, nearest):
    group, _ = choice.split("=")
    text = refused(choice)
    assert text.startswith(f"{choice}: there is no such choice.")
    assert f" Known: {', '.join(choices(group))}." in text
    assert (f"Did you mean {nearest!r}?" in text) if nearest else ("Did you mean" not in text)


@pytest.mark.parametrize("override", ["+unknown=1", "++unknown=1", "+schedule.updates=3", "+seed.deep=1"])
def test_fields_cannot_be_added(override):
    text = refused(override)
    assert text.startswith(f"{override}: fields cannot be added.")
    assert ("Did you mean schedule.updates" in text) == ("schedule.updates" in override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("~seed=0", "a field cannot be deleted"),
        ("seed", "'seed' is not an override; give NAME=VALUE"),
        ("=3", "'=3' does not name a field; give NAME=VALUE"),
        ("env=", "env=: there is no such choice. Known: ant_goal"),
        ("run_dir=runs/${envv}", "config field run_dir: Interpolation key 'envv' not found"),
    ],
)
def test_what_is_no_override_at_all(override, message):
    assert message in refused(override)


@pytest.mark.parametrize("value", ["Data (1)", "a,b", "x=y", "it's", "a[1]", "a#b"])
def test_a_path_that_needs_quotes_is_told_with_them(value):
    with pytest.raises(ConfigError, match="quotes inside the override") as told:
        compose_config([f"dataset.path={value}"])
    quoted = str(told.value).rpartition(": ")[2].removesuffix(".")
    assert compose_config([quoted]).dataset.path == value


def test_several_values_without_a_sweep():
    assert refused("seed=0,1").startswith("seed=0,1: several values need the option -m")


@pytest.mark.parametrize("old", MOVED)
def test_moved_fields_say_where_they_are_now(old):
    of_methods = {
        f"representation.{name}" for _, config in REPRESENTATIONS.items() for name in vars(config())
    }
    new, known = MOVED[old], {*fields_by_name(), *of_methods}
    for name in (old, f"{old}.policy_rate"):
        place = name.replace(old, new)
        assert refused(f"{name}=0.5") == f"{name}=0.5: the field is now called {place}."
    assert any(name == new or name.startswith(f"{new}.") for name in known)
    assert not any(name == old or name.startswith(f"{old}.") for name in known)


@pytest.mark.parametrize("method", ["focal", "anole", "oracle"])
def test_the_critics_gradient_needs_a_pooling_that_learns(method):
    told = refused(f"method={method}", "representation.critic_gradient=pooling")
    assert "config field representation.critic_gradient: got 'pooling'" in told and "encoder.pool=" in told
    validate_config(
        composed("method=focal", "representation.critic_gradient=pooling", "encoder.pool=attention")
    )
    assert "got 'pooling'" in refused("method=corro", "encoder.pool=mean")


def test_wrong_values_are_config_errors():
    assert "config field evaluation.protocols" in refused("evaluation.protocols=[np,codes,magic]")
    assert "none of them twice" in refused("evaluation.protocols=[np,codes,np]")
    assert "more than 20 under protocol 'codes'" in refused("representation.codes=20")
    assert "policy_loss=iql" in refused("policy_loss.name=iql")
    assert "null for a single run" in refused("seeds=[0,1]")


def test_focal_is_a_page_and_a_file():
    config = composed("method=focal")
    assert type(config.representation) is FOCALConfig and config.batch.repeat_tasks
    assert (config_folder() / "method" / "focal.yaml").is_file()


@pytest.mark.ci
def test_a_refused_command_leaves_nothing_behind(tmp_path):
    command = [sys.executable, "-W", "ignore", str(EXAMPLES / "train_ctmrl.py")]
    done = subprocess.run([*command, "batch.tasks=0"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0 and "config field batch.tasks: got 0" in done.stderr
    assert list(tmp_path.iterdir()) == []
