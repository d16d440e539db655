from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass

import pytest
from tiny_experiments import tiny_config

from ctmrl_torchrl.data import recipes_of
from ctmrl_torchrl.methods import (
    REPRESENTATIONS,
    FOCALConfig,
    NoRepresentationConfig,
    ReleasedConfig,
    RepresentationConfig,
)
from ctmrl_torchrl.modules.encoder_configs import EncoderConfig, TaskParametersConfig
from ctmrl_torchrl.objectives import NoRepresentationLoss
from ctmrl_torchrl.objectives.policy import IQLConfig, PolicyLossConfig
from ctmrl_torchrl.rules import SHARE, Rule, rule_of, ruled
from ctmrl_torchrl.training.config import CHOICES, ExperimentConfig
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.validate import ConfigError, check_protocol_data, validate_config

NAN, INF = float("nan"), float("inf")
SHARES, POSITIVES, WHOLES = (
    [-0.1, 1.1, NAN, INF, "half"],
    [0, -1.0, NAN, INF],
    [0, -1, 1.5, "many", True, None],
)
NEGATIVES = [-1.0, NAN, INF, "much"]
SWITCHES, SEEDS, TEXTS, COUNTS = ["yes", 1, 0, None], [-1, 0.5, 2**31], ["", " ", 3], [-1, 0.5]
GAINS = [0, -1.0, NAN, "fine"]

#: wrong values of every field that has a rule, by its name; where it belongs to one choice alone, that is named
WRONG = {
    "env": ["point_robt", None],
    "method": TEXTS,
    "preset": TEXTS,
    "seed": SEEDS,
    "seeds": [[], [0, 0], [0, -1], 3, [0.5]],
    "device": ["", None],
    "run_dir": TEXTS,
    "overwrite": SWITCHES,
    "resume": TEXTS,
    "threads": WHOLES,
    "compile": ["yes", 1],
    "deterministic": SWITCHES,
    "keep_memory": ["no", 0],
    "tasks": ["papr", None],
    "dataset.path": TEXTS,
    "dataset.root": TEXTS,
    "dataset.recipe": ["large", None],
    "dataset.seed": [-1],
    "dataset.verify": ["no"],
    "context.kind": ["episodes"],
    "context.length": WHOLES,
    "context.trajectories": [[0, 3], [3, 2], [1], [1, 2, 3], [1, 2.5], None, 4],
    "context.behaviours": [[0, 3], [3, 2], [], "two"],
    "context.near_random_fraction": SHARES,
    "context.near_random_snapshots": WHOLES,
    "batch.tasks": [1, 31, 2.5],
    "batch.transitions": WHOLES,
    "batch.repeat_tasks": ["yes"],
    "sizes.encoder_hidden": [[], [0], [8, -1], 8],
    "sizes.predictor_hidden": [[], [0], [8, -1], 8],
    "sizes.policy_hidden": [[], [0], [8, -1], 8],
    "encoder.context_dim": WHOLES,
    "encoder=pooling.hidden": [[], [0], [8, -1], 8],
    "encoder=pooling.head_hidden": [[0], 8],
    "encoder=pooling.feature_gain": GAINS,
    "encoder=pooling.pool": ["max"],
    "encoder=pooling.flags": [["ended"], "terminated"],
    "optimizer.representation_rate": [-1.0, NAN, INF],
    "optimizer.policy_rate": [-1.0, NAN, INF],
    "optimizer.policy_final": SHARES,
    "optimizer.policy_decay_from": SHARES,
    "schedule.updates": WHOLES,
    "schedule.representation_end": SHARES,
    "schedule.policy_start": [*SHARES, 0.9],
    "evaluation.every": COUNTS,
    "evaluation.repeats": WHOLES,
    "evaluation.final_repeats": WHOLES,
    "evaluation.protocols": [["np", "nop"], ["np", "np"], "np", None],
    "evaluation.episodes": [0, 1, 2, 2.5],  # 2 is too few for the 2 codes
    "evaluation.random_episodes": WHOLES,
    "evaluation.candidates": WHOLES,
    "evaluation.queries": WHOLES,
    "evaluation.oracle_error": [-0.1, 0.5, NAN, "few"],
    "evaluation.seed": [-1],
    "evaluation.collector.kind": ["sync", None],
    "evaluation.collector.workers": WHOLES,
    "output.log_every": WHOLES,
    "output.checkpoint_every": COUNTS,
    "output.logger": ["csv", True],
    "output.progress": SWITCHES,
    "output.figures": SWITCHES,
    "policy_loss.hidden": [[], [0]],
    "policy_loss.target_rate": SHARES,
    "policy_loss.observation_gain": GAINS,
    "policy_loss=brac_sac.reward_scale": POSITIVES,
    "policy_loss=brac_sac.entropy_coefficient": [-1.0, NAN],
    "policy_loss=brac_sac.regularisation": [-1.0, NAN],
    "policy_loss=brac_sac.behaviour_penalty": ["on"],
    "policy_loss=brac_sac.penalty_init": [-1.0, NAN],
    "policy_loss=brac_sac.penalty_max": [-1.0, NAN],
    "policy_loss=brac_sac.divergence_target": [NAN],
    "policy_loss=iql.expectile": [0.0, 1.0, NAN],
    "policy_loss=iql.temperature": POSITIVES,
    "policy_loss=iql.rewards": ["clipped", None],
    "representation.critic_gradient": ["some", None],
    "representation=cqvae.codes": [0, -2, 1.5, None],
    "representation=cqvae.prediction_weight": [-1.0, NAN],
    "representation=cqvae.cross_prediction_weight": [-1.0, NAN],
    "representation=cqvae.code_weight": [-1.0, NAN],
    "representation=cqvae.contrastive_weight": [-1.0, NAN],
    "representation=cqvae.temperature": POSITIVES,
    "representation=cqvae.extra_negatives": COUNTS,
    "representation=cqvae.update_rate": SHARES,
    "representation=cqvae.predictor_hidden": [[], [0]],
    "representation=cqvae.relabelled_fraction": SHARES,
    "representation=cqvae.observation_gain": GAINS,
    "representation=cqvae.predict": ["future"],
    "representation=cqvae.kmeans": ["no", 1],
    "representation=cqvae.kmeans_epochs": WHOLES,
    "representation=cqvae.kmeans_from": SHARES,
    "representation=cqvae.kmeans_at": SHARES,
    "representation=cqvae.kmeans_refreshes": WHOLES,
    "representation=cqvae.kmeans_contexts": WHOLES,
    "representation=released.metric_weight": NEGATIVES,
    "representation=released.club_weight": NEGATIVES,
    "representation=released.posterior_weight": NEGATIVES,
    "representation=released.cycle_weight": NEGATIVES,
    "representation=released.commitment_weight": NEGATIVES,
    "representation=released.code_contrast_weight": NEGATIVES,
    "representation=released.posterior_hidden": [[], [0]],
    "representation=focal.metric_weight": [0, *NEGATIVES],
}
#: wrong values by what a rule says of itself, for the fields of every other choice
WRONG_BY_RULE = {
    "a number from 0 to 1": SHARES,
    "a number from 0 to below 1": [1.0, *SHARES],
    "a number from 0 to below 0.5": [0.5, *SHARES],
    "a number between 0 and 1, both excluded": [0.0, 1.0, *SHARES],
    "a positive number": POSITIVES,
    "a number of at least 0": NEGATIVES,
    "a finite number": [NAN, INF, "one", True],
    "true or false": SWITCHES,
    "a pair [least, most] of whole numbers with 1 <= least <= most": [[0, 3], [3, 2], [1], None],
    "a whole number of at least 0": COUNTS,
    "a whole number of at least 1": WHOLES,
    "a whole number of at least 2": [1, *WHOLES],
    "a list of at least 1, each a whole number of at least 1": [[], [0], [8, -1], 8],
    "a list of at least 0, each a whole number of at least 1": [[0], 8],
    "a text that is not empty": TEXTS,
}


class Unheard:
    """A value that no rule allows, whatever it is about."""

    def __repr__(self):
        return "Unheard()"


def ruled_fields(configuration, path=""):
    """``(dotted name, rule)`` of every field with a rule, in a configuration and in those that it holds."""
    for each in fields(configuration):
        name, value = f"{path}.{each.name}".lstrip("."), getattr(configuration, each.name)
        rule = rule_of(configuration, each.name)
        if rule is not None:
            yield name, rule
        if is_dataclass(value):
            yield from ruled_fields(value, name)


def all_ruled_fields():
    """``(section, choice, dotted name, rule)`` of an experiment with every choice that is registered."""
    for name, rule in ruled_fields(ExperimentConfig()):
        if name.split(".")[0] not in CHOICES:
            yield None, None, name, rule
    for section, registry in CHOICES.items():
        for choice, config in registry.items():
            for name, rule in ruled_fields(config(), section):
                yield section, choice, name, rule


def wrong_values(choice, name, rule):
    """Values that the field must refuse: said for this field, or else for its rule."""
    section, _, rest = name.partition(".")
    for known in (f"{section}={choice}.{rest}", name):
        if known in WRONG:
            return WRONG[known]
    without_null = rule.describe().removesuffix(", or null")
    if without_null in WRONG_BY_RULE and rule.names is None:
        return [value for value in WRONG_BY_RULE[without_null] if value is not None]
    return [Unheard()]


def check_refusals(section, choice, name, rule, folder):
    """Every wrong value of a field is refused by a message that names field, value and what is allowed."""
    for value in wrong_values(choice, name, rule):
        sections = {} if section is None else {section: CHOICES[section].get(choice)()}
        config = tiny_config(folder, folder, {name: value}, **sections)
        with pytest.raises(ConfigError) as error:
            validate_config(config)
        text = str(error.value)
        assert f"config field {name}: got " in text and "allowed is " in text and repr(value) in text


CASES = {
    (name if section is None else f"{section}={choice}.{name.partition('.')[2]}"): (
        section,
        choice,
        name,
        rule,
    )
    for section, choice, name, rule in all_ruled_fields()
}


@pytest.mark.parametrize("case", CASES)
def test_wrong_values_are_named_with_what_is_allowed(case, tmp_path):
    check_refusals(*CASES[case], tmp_path)


def test_every_rule_is_tested():
    """Each wrong value above belongs to a field that has a rule, and every field with a rule is a case."""
    assert set(WRONG) - {name for _, _, name, _ in CASES.values()} - set(CASES) == set()
    assert all(wrong_values(*entry[1:]) for entry in CASES.values())
    without_rule = {
        name
        for section, registry in CHOICES.items()
        for choice, config in registry.items()
        for name in {f"{section}={choice}.{each.name}" for each in fields(config)} - set(CASES)
    }
    assert {name.partition(".")[2] for name in without_rule} == {"name"}  # which is checked by itself


def test_a_guests_configuration_is_checked_by_the_same_walk(tmp_path):
    @dataclass
    class Guest(RepresentationConfig):
        name: str = "guest"
        share: float = ruled(0.5, SHARE)
        even: int = ruled(2, Rule(lambda value: value % 2 == 0, "an even number"))

        def build(self, problem, context_dim):
            return NoRepresentationLoss()

        def check(self, facts):
            if self.share * facts.training_tasks < 3:
                raise ConfigError("config field representation.share: too few tasks")

    REPRESENTATIONS.register("guest", Guest)
    try:
        ruled_here = {case[2]: case for case in all_ruled_fields() if case[1] == "guest"}
        assert set(ruled_here) == {f"representation.{n}" for n in ("critic_gradient", "share", "even")}
        for name in ("share", "even"):  # a rule that cannot judge a value does not allow it
            check_refusals(*ruled_here[f"representation.{name}"], tmp_path)
        protocols = {"evaluation.protocols": ["np"]}
        for changes, message in (
            (
                {"representation.even": 3},
                "config field representation.even: got 3, allowed is an even number",
            ),
            ({"representation.share": 0.05}, "too few tasks"),
            ({"representation.name": "guess"}, "got 'guess', allowed is one of .*Did you mean 'guest'"),
        ):
            with pytest.raises(ConfigError, match=message):
                validate_config(tiny_config(tmp_path, tmp_path, protocols | changes, representation=Guest()))
        validate_config(tiny_config(tmp_path, tmp_path, protocols, representation=Guest()))
    finally:
        REPRESENTATIONS.unregister("guest")
    with pytest.raises(ConfigError, match=r"representation.name: got 'guest', allowed is one of .*cqvae"):
        validate_config(tiny_config(tmp_path, tmp_path, representation=Guest()))


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


def test_offline_needs_a_recipe_that_records_test_tasks(tmp_path):
    def config(recipe, protocols, **changes):
        changes = {f"dataset.{name}": value for name, value in changes.items()}
        asked = {"dataset.recipe": recipe, "evaluation.protocols": protocols} | changes
        return tiny_config(tmp_path / "data", tmp_path / "run", asked)

    with pytest.raises(
        ConfigError, match=r"config field evaluation.protocols.*without 'offline', which reads"
    ):
        run_experiment(config("small_train_only", ["np", "offline"]))
    assert not list(tmp_path.iterdir())
    validate_config(config("small_train_only", ["offline"]))  # ctmrl collect makes such data
    check_protocol_data(config("small_train_only", ["np"]))
    check_protocol_data(config("small", ["offline"]))
    check_protocol_data(config("small_train_only", ["offline"], path=str(tmp_path)))  # other data are there


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


def test_nothing_is_written_or_made_for_a_wrong_configuration(tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", {"representation.kmeans_at": 2.0})
    with pytest.raises(
        ConfigError, match="representation.kmeans_at: got 2.0, allowed is a number from 0 to below 1"
    ):
        run_experiment(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["run_dir", "dataset.root"])
def test_a_file_in_the_place_of_a_folder_is_named_and_kept(field, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    place = str(tmp_path / "file" / "below")
    config = tiny_config(tmp_path / "data", tmp_path / "run", {field: place})
    with pytest.raises(
        ConfigError, match=rf"config field {field}: \S+below cannot be written \(\S+file is a file, not a dir"
    ):
        run_experiment(config)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", ""])
def test_unknown_devices(device, tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", {"device": device})
    allowed = "auto, cpu" if device else "a text that is not empty"
    with pytest.raises(ConfigError, match=f"config field device: got '{device}', allowed is {allowed}"):
        run_experiment(config)
    assert not list(tmp_path.iterdir())


def test_layers_after_the_mean_do_not_go_with_contexts_of_single_transitions(tmp_path):
    released = {"representation": ReleasedConfig(codes=2)}
    validate_config(tiny_config(tmp_path, tmp_path, {"encoder.pool": "mean"}, **released))
    with pytest.raises(ConfigError, match="encoder.pool: got 'mean_mlp', allowed is 'mean'"):
        validate_config(tiny_config(tmp_path, tmp_path, {"encoder.pool": "mean_mlp"}, **released))
    told = {"evaluation.protocols": ["told"]}
    with pytest.raises(ConfigError, match="encoder.pool: got 'task_parameters', allowed is 'mean'"):
        validate_config(tiny_config(tmp_path, tmp_path, told, encoder=TaskParametersConfig(), **released))


def test_iql_is_fine_with_the_defaults(tmp_path):
    validate_config(tiny_config(tmp_path, tmp_path, policy_loss=IQLConfig(hidden=[8])))
