"""Checks on a configuration's values, before anything is built or written."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ctmrl_torchrl.data import recipe_names, recipes_of
from ctmrl_torchrl.envs import ENV_NAMES, get_family
from ctmrl_torchrl.objectives.policy.iql import REWARDS
from ctmrl_torchrl.training.config import POLICY_LOSSES, REPRESENTATIONS, ExperimentConfig
from ctmrl_torchrl.training.meta_test import PROTOCOL_NAMES

#: what ``output.logger`` chooses from; all but the first need the package of that name
LOGGERS = ("none", "tensorboard", "wandb", "mlflow")

Rule = tuple[Callable[[Any], bool], str]


class ConfigError(ValueError):
    """A configuration value is not allowed; the message names the field, the value and what is allowed."""


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_list_of(values: Any, rule: Rule, least: int) -> bool:
    return (
        isinstance(values, (list, tuple)) and len(values) >= least and all(rule[0](value) for value in values)
    )


def _whole(least: int) -> Rule:
    return (lambda value: _is_whole(value) and value >= least), f"a whole number of at least {least}"


def _among(*names: str) -> Rule:
    return (lambda value: value in names), "one of " + ", ".join(names)


def _or_none(rule: Rule) -> Rule:
    return (lambda value: value is None or rule[0](value)), f"{rule[1]}, or null"


def _list_of(rule: Rule, least: int) -> Rule:
    return (lambda values: _is_list_of(values, rule, least)), f"a list of at least {least}, each {rule[1]}"


def _bounds(values: Any) -> bool:
    return _is_list_of(values, _whole(1), 2) and len(values) == 2 and values[0] <= values[1]


SHARE: Rule = ((lambda value: _is_number(value) and 0.0 <= value <= 1.0), "a number from 0 to 1")
SHARE_BELOW_ONE: Rule = (
    (lambda value: _is_number(value) and 0.0 <= value < 1.0),
    "a number from 0 to below 1",
)
POSITIVE: Rule = ((lambda value: _is_number(value) and value > 0), "a positive number")
NOT_NEGATIVE: Rule = ((lambda value: _is_number(value) and value >= 0), "a number of at least 0")
NUMBER: Rule = (_is_number, "a finite number")
SWITCH: Rule = ((lambda value: isinstance(value, bool)), "true or false")
BOUNDS: Rule = (_bounds, "a pair [least, most] of whole numbers with 1 <= least <= most")
WIDTHS = _list_of(_whole(1), 1)

SEED: Rule = ((lambda value: _is_whole(value) and 0 <= value < 2**31), "a whole number from 0 to 2**31 - 1")

RULES: dict[str, Rule] = {
    "env": _among(*ENV_NAMES),
    "seed": SEED,
    "threads": _whole(1),
    "keep_memory": SWITCH,
    "compile": SWITCH,
    "dataset.recipe": _among(*recipe_names()),
    "dataset.seed": SEED,
    "dataset.verify": _among("full", "quick"),
    "context.kind": _among("trajectories", "transitions"),
    "context.length": _whole(1),
    "context.trajectories": BOUNDS,
    "context.behaviours": _or_none(BOUNDS),
    "context.near_random_fraction": SHARE,
    "context.near_random_snapshots": _whole(1),
    "batch.tasks": _whole(2),
    "batch.transitions": _whole(1),
    "batch.repeat_tasks": SWITCH,
    "encoder.context_dim": _whole(1),
    "encoder.hidden": WIDTHS,
    "encoder.head_hidden": _list_of(_whole(1), 0),
    "encoder.feature_gain": _or_none(POSITIVE),
    "encoder.pool": _among("mean", "mean_mlp"),
    "optimiser.representation_rate": NOT_NEGATIVE,
    "optimiser.policy_rate": NOT_NEGATIVE,
    "optimiser.policy_final": SHARE,
    "optimiser.policy_decay_from": SHARE,
    "schedule.updates": _whole(1),
    "schedule.representation_end": SHARE,
    "schedule.policy_start": SHARE_BELOW_ONE,
    "schedule.epochs": _whole(1),
    "schedule.kmeans_from": SHARE,
    "schedule.kmeans_at": SHARE_BELOW_ONE,
    "schedule.refreshes": _whole(1),
    "schedule.kmeans": SWITCH,
    "schedule.contexts_per_epoch": _whole(1),
    "evaluation.every": _whole(0),
    "evaluation.repeats": _whole(1),
    "evaluation.final_repeats": _whole(1),
    "evaluation.protocols": _list_of(_among(*PROTOCOL_NAMES), 1),
    "evaluation.episodes": _whole(2),
    "evaluation.random_episodes": _whole(1),
    "evaluation.seed": SEED,
    "output.log_every": _whole(1),
    "output.logger": _among(*LOGGERS),
    "output.checkpoint_every": _whole(0),
    "representation.name": _among(*(loss.name for loss in REPRESENTATIONS)),
    "policy_loss.name": _among(*(loss.name for loss in POLICY_LOSSES)),
    "policy_loss.hidden": WIDTHS,
    "policy_loss.target_rate": SHARE,
    "policy_loss.observation_gain": _or_none(POSITIVE),
}

#: fields that not every loss has: checked where they are
LOSS_RULES: dict[str, Rule] = {
    "representation.codes": _or_none(_whole(1)),
    "representation.prediction_weight": NOT_NEGATIVE,
    "representation.cross_prediction_weight": NOT_NEGATIVE,
    "representation.code_weight": NOT_NEGATIVE,
    "representation.contrastive_weight": NOT_NEGATIVE,
    "representation.metric_weight": NOT_NEGATIVE,
    "representation.club_weight": NOT_NEGATIVE,
    "representation.guess_weight": NOT_NEGATIVE,
    "representation.cycle_weight": NOT_NEGATIVE,
    "representation.commitment_weight": NOT_NEGATIVE,
    "representation.code_contrast_weight": NOT_NEGATIVE,
    "representation.guess_hidden": WIDTHS,
    "representation.temperature": POSITIVE,
    "representation.extra_negatives": _whole(0),
    "representation.update_rate": SHARE,
    "representation.predictor_hidden": WIDTHS,
    "representation.relabelled_fraction": SHARE,
    "representation.observation_gain": _or_none(POSITIVE),
    "representation.predict": _among("context", "transitions"),
    "policy_loss.reward_scale": POSITIVE,
    "policy_loss.entropy_coefficient": NOT_NEGATIVE,
    "policy_loss.regularisation": NOT_NEGATIVE,
    "policy_loss.behaviour_penalty": SWITCH,
    "policy_loss.penalty_init": NOT_NEGATIVE,
    "policy_loss.penalty_max": NOT_NEGATIVE,
    "policy_loss.divergence_target": NUMBER,
    "policy_loss.expectile": (
        (lambda value: _is_number(value) and 0.0 < value < 1.0),
        "a number between 0 and 1, both excluded",
    ),
    "policy_loss.temperature": POSITIVE,
    "policy_loss.rewards": _among(*REWARDS),
}


def validate_config(config: ExperimentConfig) -> None:
    """Check every value that has a rule, and those that must fit each other.

    Raises:
        ConfigError: naming the field, what was given and what is allowed.
    """
    for name, (allowed, description) in RULES.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        _require(allowed(value), name, value, description)
    for name, (allowed, description) in LOSS_RULES.items():
        group, field = name.split(".")
        loss = getattr(config, group)
        if hasattr(loss, field):
            value = getattr(loss, field)
            _require(allowed(value), name, value, description)
    _require(config.seeds is None, "seeds", config.seeds, "null for a single run; see run_seeds for several")
    presets = get_family(config.env).presets
    _require(config.tasks in presets, "tasks", config.tasks, f"one of {', '.join(presets)}")
    recipes = recipes_of(config.env)
    _require(
        config.dataset.recipe in recipes,
        "dataset.recipe",
        config.dataset.recipe,
        f"one of {', '.join(recipes)}",
    )
    _check_together(config, presets[config.tasks][0])


def validate_seeds(configs: Sequence[ExperimentConfig]) -> None:
    """Check that runs can be trained as one stacked computation.

    Raises:
        ConfigError: naming the field, what was given and what is allowed.
    """
    seeds, folders = [config.seed for config in configs], [config.run_dir for config in configs]
    _require(len(seeds) > 0 and len(set(seeds)) == len(seeds), "seeds", seeds, "a list of different seeds")
    _require(
        len(set(folders)) == len(seeds),
        "run_dir",
        folders,
        "a folder of its own for every seed, such as runs/mine-${seed}",
    )
    for name in ("compile", "resume"):
        values = [getattr(config, name) for config in configs if getattr(config, name)]
        _require(
            not values, name, values, f"nothing together with seeds; run each seed by itself with {name}"
        )
    alike = [replace(config, seed=0, run_dir="") for config in configs]
    _require(all(config == alike[0] for config in alike), "seeds", seeds, "runs that differ in nothing else")


def _require(condition: bool, name: str, value: Any, description: str) -> None:
    if not condition:
        raise ConfigError(f"config field {name}: got {value!r}, allowed is {description}.")


def _check_together(config: ExperimentConfig, training_tasks: int) -> None:
    """Values that are allowed one by one, but not in this company."""
    schedule, evaluation, logger = config.schedule, config.evaluation, config.output.logger
    _require(
        logger == "none" or importlib.util.find_spec(logger) is not None,
        "output.logger",
        logger,
        "a logger whose package is installed: for wandb and mlflow, pip install 'ctmrl_torchrl[loggers]'",
    )
    _require(
        config.batch.tasks <= training_tasks or config.batch.repeat_tasks,
        "batch.tasks",
        config.batch.tasks,
        f"at most {training_tasks}, the number of training tasks of {config.env} with tasks={config.tasks} "
        "(or batch.repeat_tasks=true)",
    )
    _require(
        not schedule.kmeans or schedule.representation_end > 0,
        "schedule.representation_end",
        schedule.representation_end,
        "more than 0 with schedule.kmeans=true, which places the codes within the representation phase",
    )
    _require(
        config.encoder.pool == "mean" or not config.representation.uses_transition_contexts,
        "encoder.pool",
        config.encoder.pool,
        f"'mean' with representation={config.representation.name}, which compares contexts of single "
        "transitions with those of tasks",
    )
    length = max(schedule.updates * schedule.representation_end, 1.0)
    _require(
        not schedule.kmeans or math.ceil(schedule.kmeans_at * length) < length,
        "schedule.kmeans_at",
        schedule.kmeans_at,
        f"smaller: K-means must begin within the representation phase, which has only {length:g} updates",
    )
    _require(
        schedule.policy_start <= schedule.representation_end,
        "schedule.policy_start",
        schedule.policy_start,
        f"at most schedule.representation_end={schedule.representation_end}, for nothing would learn between "
        "the two",
    )
    _require(
        not {"np", "np_refine"} & set(evaluation.protocols)
        or evaluation.random_episodes < evaluation.episodes,
        "evaluation.random_episodes",
        evaluation.random_episodes,
        f"fewer than evaluation.episodes={evaluation.episodes}, so that an episode is left to adapt with",
    )
    _require(
        "np_refine" not in evaluation.protocols or evaluation.random_episodes > 1,
        "evaluation.random_episodes",
        evaluation.random_episodes,
        "at least 2 under protocol 'np_refine', which compares a part of them with all",
    )
    if not hasattr(config.representation, "codes"):
        _require(
            "codes" not in evaluation.protocols,
            "evaluation.protocols",
            evaluation.protocols,
            f"anything without 'codes': representation={config.representation.name} has no codebook to play",
        )
        return
    codes = (
        get_family(config.env).codes if config.representation.codes is None else config.representation.codes
    )
    _require(
        "codes" not in evaluation.protocols or evaluation.episodes > codes,
        "evaluation.episodes",
        evaluation.episodes,
        f"more than {codes} under protocol 'codes', which plays each of the {codes} codes once "
        "(or a smaller representation.codes, or evaluation.protocols without 'codes')",
    )
    contexts = training_tasks * schedule.contexts_per_epoch
    _require(
        not schedule.kmeans or codes <= contexts,
        "representation.codes",
        codes,
        f"at most {contexts}, the contexts that K-means sees in one epoch ({training_tasks} training tasks x "
        f"schedule.contexts_per_epoch={schedule.contexts_per_epoch}), or schedule.kmeans=false",
    )
