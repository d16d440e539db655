"""The sections of a configuration name choices that exist and that fit together."""

from __future__ import annotations

import pytest
from tiny_experiments import tiny_config

from ctmrl_torchrl.data import recipes_of
from ctmrl_torchrl.methods import FOCALConfig, NoRepresentationConfig, ReleasedConfig
from ctmrl_torchrl.modules.encoder_configs import EncoderConfig, TaskParametersConfig
from ctmrl_torchrl.objectives.policy import IQLConfig, PolicyLossConfig
from ctmrl_torchrl.training.config import CHOICES, ExperimentConfig
from ctmrl_torchrl.training.validate import ConfigError, validate_config


def test_fine_configurations_pass(tmp_path):
    validate_config(tiny_config(tmp_path, tmp_path))
    np = {"evaluation.protocols": ["np"]}
    for changes in (
        {"context.behaviours": None},
        {"context.trajectories": (1, 1)},
        {"representation.codes": 8, "evaluation.episodes": 9},
        {"representation.codes": 8, **np},
        {"representation.codes": 31, "representation.kmeans": False, **np},
        {"representation.codes": 31, "representation.kmeans_contexts": 2, **np},
        {"batch.tasks": 31, "batch.repeat_tasks": True},
        {"batch.tasks": 80, "tasks": "paper"},
        {"schedule.policy_start": 0.8},
        {"encoder.flags": ["terminated", "truncated"]},
        {"evaluation.protocols": []},
        *({"dataset.recipe": name} for name in recipes_of("point_robot")),
    ):
        validate_config(tiny_config(tmp_path, tmp_path, changes))


def test_iql_is_fine_with_the_defaults(tmp_path):
    validate_config(tiny_config(tmp_path, tmp_path, policy_loss=IQLConfig(hidden=[8])))


def test_all_sections_must_be_chosen(tmp_path):
    for section, config in (
        ("encoder", ExperimentConfig()),
        ("representation", ExperimentConfig(encoder=EncoderConfig())),
        ("policy_loss", tiny_config(tmp_path, tmp_path, policy_loss=PolicyLossConfig())),
    ):
        known = ", ".join(sorted(CHOICES[section]))
        with pytest.raises(ConfigError, match=f"{section}.name: got 'none', allowed is one of {known}"):
            validate_config(config)
    assert PolicyLossConfig().name == "none"


@pytest.mark.parametrize(
    ("section", "name"), [("representation", "vae"), ("policy_loss", "ppo"), ("encoder", "lstm")]
)
def test_an_unknown_choice_lists_the_known_ones(section, name, tmp_path):
    with pytest.raises(ConfigError) as error:
        validate_config(tiny_config(tmp_path, tmp_path, {f"{section}.name": name}))
    text = str(error.value)
    assert f"config field {section}.name: got {name!r}, allowed is one of " in text
    assert ", ".join(sorted(CHOICES[section])) in text


def test_a_name_that_does_not_belong_to_its_section_says_how_to_choose_the_section(tmp_path):
    config = tiny_config(tmp_path, tmp_path, {"policy_loss.name": "iql"})
    with pytest.raises(ConfigError, match="the section is a BRACSACConfig; choose .*policy_loss=iql"):
        validate_config(config)


def test_what_must_fit_together_says_so(tmp_path):
    for changes, message in (
        ({"batch.tasks": 31}, "at most 30, the number of training tasks of point_robot with tasks=repo"),
        ({"tasks": "papre"}, "Unknown preset 'papre' .*Did you mean 'paper'"),
        (
            {"tasks": "repo+5"},
            "allowed is one of repo, paper. Training tasks cannot be added to 'repo' of 'point_robot'",
        ),
        ({"evaluation.episodes": 2}, "more than 2 under protocol 'codes'"),
        ({"representation.codes": 8, "evaluation.episodes": 8}, "more than 8 under protocol 'codes'"),
        (
            {"representation.codes": 31, "evaluation.episodes": 99},
            "at most 30, the contexts that K-means gets",
        ),
        (
            {"schedule.representation_end": 0.0, "schedule.policy_start": 0.0},
            "more than 0 with representation.kmeans",
        ),
        ({"schedule.updates": 10, "representation.kmeans_at": 0.95}, "begin within the representation phase"),
        ({"schedule.policy_start": 0.9}, "at most schedule.representation_end=0.8"),
        (
            {"evaluation.protocols": ["np_refine"], "evaluation.random_episodes": 1},
            "at least 2 under protocol 'np_refine'",
        ),
        (
            {"evaluation.protocols": ["np"], "evaluation.random_episodes": 3},
            "random_episodes: got 3, allowed is fewer than evaluation.episodes=3",
        ),
        (
            {"evaluation.protocols": ["codes", "npp"]},
            "one of .*codes, .*np, .*np_refine, .*Did you mean 'np'",
        ),
        ({"evaluation.protocols": ["told"]}, "anything without 'told', which needs an encoder with access"),
        ({"evaluation.collector.workers": 2}, "1 for evaluation.collector.kind='single'"),
        ({"dataset.collector.workers": 2}, "1 for dataset.collector.kind='single'"),
        ({"env": "dataset"}, "dataset.path: got None, allowed is the folder of a dataset with env=dataset"),
        ({"env": "dataset", "dataset.path": "x"}, r"protocols: got .*allowed is \[\] with env=dataset"),
    ):
        with pytest.raises(ConfigError, match=message):
            validate_config(tiny_config(tmp_path, tmp_path, changes))


def test_codes_without_a_codebook_are_candidates_of_their_own_number(tmp_path):
    """A method without contexts of its own tries centers of the training tasks' contexts."""
    fields = {"representation": FOCALConfig()}
    assert FOCALConfig().num_candidates is None
    changes = {"evaluation.candidates": 3, "evaluation.episodes": 3}
    with pytest.raises(ConfigError, match="more than 3 under protocol 'codes'"):
        validate_config(tiny_config(tmp_path, tmp_path, changes, **fields))
    validate_config(tiny_config(tmp_path, tmp_path, changes | {"evaluation.candidates": 2}, **fields))
    validate_config(tiny_config(tmp_path, tmp_path, {"evaluation.protocols": ["np"]}, **fields))


def test_protocol_told_goes_with_an_encoder_that_is_told(tmp_path):
    told = {"evaluation.protocols": ["told"]}
    fields = {"encoder": TaskParametersConfig(), "representation": NoRepresentationConfig()}
    validate_config(tiny_config(tmp_path, tmp_path, told, **fields))
    assert TaskParametersConfig().reads_task_alone and not EncoderConfig().reads_task_alone


def test_layers_after_the_mean_do_not_go_with_contexts_of_single_transitions(tmp_path):
    released = {"representation": ReleasedConfig(codes=2)}
    validate_config(tiny_config(tmp_path, tmp_path, {"encoder.pool": "mean"}, **released))
    with pytest.raises(ConfigError, match="encoder.pool: got 'mean_mlp', allowed is 'mean'"):
        validate_config(tiny_config(tmp_path, tmp_path, {"encoder.pool": "mean_mlp"}, **released))
    told = {"evaluation.protocols": ["told"]}
    with pytest.raises(ConfigError, match="encoder.pool: got 'task_parameters', allowed is 'mean'"):
        validate_config(tiny_config(tmp_path, tmp_path, told, encoder=TaskParametersConfig(), **released))
