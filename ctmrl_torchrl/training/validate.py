"""Checks on a configuration's values, before anything is built or written."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ctmrl_torchrl.envs import ENV_NAMES, get_family
from ctmrl_torchrl.training.config import ExperimentConfig


class ConfigError(ValueError):
    """A configuration value is not allowed; the message names the field, the value and what is allowed."""


def _whole(least: int) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value >= least), f"a whole number of at least {least}"


def _share(value: Any) -> bool:
    return 0.0 <= value <= 1.0


SHARE = (_share, "a number from 0 to 1")
POSITIVE = ((lambda value: math.isfinite(value) and value > 0), "a positive number")
NOT_NEGATIVE = ((lambda value: math.isfinite(value) and value >= 0), "a number of at least 0")


def _among(*names: str) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in names), "one of " + ", ".join(names)


RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "env": _among(*ENV_NAMES),
    "threads": _whole(1),
    "dataset.recipe": _among("small", "paper"),
    "context.kind": _among("trajectories", "transitions"),
    "context.length": _whole(1),
    "context.near_random_fraction": SHARE,
    "context.near_random_snapshots": _whole(1),
    "batch.tasks": _whole(2),
    "batch.transitions": _whole(1),
    "encoder.context_dim": _whole(1),
    "encoder.pool": _among("mean", "mean_mlp"),
    "optimiser.representation_rate": NOT_NEGATIVE,
    "optimiser.policy_rate": NOT_NEGATIVE,
    "optimiser.policy_final": SHARE,
    "optimiser.policy_decay_from": SHARE,
    "schedule.updates": _whole(1),
    "schedule.representation_end": SHARE,
    "schedule.policy_start": SHARE,
    "schedule.epochs": _whole(1),
    "schedule.warm_up": SHARE,
    "schedule.kmeans_from": SHARE,
    "schedule.kmeans_at": SHARE,
    "schedule.refreshes": _whole(1),
    "schedule.contexts_per_epoch": _whole(1),
    "evaluation.every": _whole(0),
    "evaluation.repeats": _whole(1),
    "evaluation.final_repeats": _whole(1),
    "evaluation.episodes": _whole(2),
    "evaluation.random_episodes": _whole(1),
    "evaluation.codes_keep": _whole(1),
    "output.log_every": _whole(1),
    "output.checkpoint_every": _whole(0),
    "policy_loss.target_rate": SHARE,
}


def validate_config(config: ExperimentConfig) -> None:
    """Check every value that has a rule.

    Raises:
        ConfigError: naming the field, what was given and what is allowed.
    """
    for name, (allowed, description) in RULES.items():
        value: Any = config
        for part in name.split("."):
            value = getattr(value, part)
        if not allowed(value):
            raise ConfigError(f"config field {name}: got {value!r}, allowed is {description}.")
    for name in ("trajectories", "behaviours"):
        bounds = getattr(config.context, name)
        if bounds is not None and not (len(bounds) == 2 and 1 <= bounds[0] <= bounds[1]):
            raise ConfigError(
                f"config field context.{name}: got {list(bounds)}, allowed is a pair [least, most] with 1 <= least <= most."
            )
    presets = get_family(config.env).presets
    if config.tasks not in presets:
        raise ConfigError(f"config field tasks: got {config.tasks!r}, allowed is one of {', '.join(presets)}.")
    training = presets[config.tasks][0]
    if config.batch.tasks > training and not config.batch.repeat_tasks:
        raise ConfigError(
            f"config field batch.tasks: got {config.batch.tasks}, allowed is at most {training}, the number of training "
            f"tasks of {config.env} with tasks={config.tasks} (or batch.repeat_tasks=true)."
        )
