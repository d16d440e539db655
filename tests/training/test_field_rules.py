"""Every field of a configuration that has a rule refuses wrong values, whichever choice it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass

import pytest
from tiny_experiments import tiny_config

from ctmrl_torchrl.methods import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.objectives import NoRepresentationLoss
from ctmrl_torchrl.rules import SHARE, Rule, rule_of, ruled
from ctmrl_torchrl.training.config import CHOICES, ExperimentConfig
from ctmrl_torchrl.training.validate import ConfigError, validate_config

NAN, INF = float("nan"), float("inf")
SHARES = [-0.1, 1.1, NAN, INF, "half"]
POSITIVES = [0, -1.0, NAN, INF]
NEGATIVES = [-1.0, NAN, INF, "much"]
GAINS = [0, -1.0, NAN, "fine"]
WHOLES = [0, -1, 1.5, "many", True, None]
COUNTS = [-1, 0.5]
SEEDS = [-1, 0.5, 2**31]
SWITCHES = ["yes", 1, 0, None]
TEXTS = ["", " ", 3]

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
    "dataset.collector.kind": ["sync", None],
    "dataset.collector.workers": WHOLES,
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


def label(choice, name):
    """The name of a field, with the choice that it belongs to."""
    section, _, rest = name.partition(".")
    return name if choice is None else f"{section}={choice}.{rest}"


def wrong_values(choice, name, rule):
    """Values that the field must refuse: said for this field, or else for its rule."""
    for known in (label(choice, name), name):
        if known in WRONG:
            return WRONG[known]
    described = rule.describe().removesuffix(", or null")
    if described in WRONG_BY_RULE and rule.names is None:
        may_be_null = described != rule.describe()
        return [value for value in WRONG_BY_RULE[described] if value is not None or not may_be_null]
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


CASES = {label(*entry[1:3]): entry for entry in all_ruled_fields()}


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
