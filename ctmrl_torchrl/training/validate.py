"""Checks a complete configuration before anything is built: rules of single fields and across fields."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ctmrl_torchrl.collectors import PROTOCOLS
from ctmrl_torchrl.data import get_recipe, recipes_of
from ctmrl_torchrl.envs import get_family, make_task_set
from ctmrl_torchrl.machine import has_compiler
from ctmrl_torchrl.methods import PARTS, Facts, PartConfig, RepresentationConfig
from ctmrl_torchrl.modules.encoder_configs import ContextEncoderConfig
from ctmrl_torchrl.objectives.policy import PolicyLossConfig
from ctmrl_torchrl.recorded import has_onednn
from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.rules import ConfigError, check_fields, lacks_build, require
from ctmrl_torchrl.training.config import CHOICES, DATA_ALONE, ExperimentConfig, held_out_part
from ctmrl_torchrl.training.loggers import require_logger
from ctmrl_torchrl.training.tester import protocol_settings

__all__ = [
    "ConfigError",
    "check_protocol_data",
    "check_training_tasks",
    "protocol_names",
    "tells_the_task",
    "validate_config",
    "validate_seeds",
]

_MOST_THREADS = 256
#: the base class of every choice, and how its ``build`` is called
_BASES: dict[str, tuple[Any, str]] = {
    "encoder": (ContextEncoderConfig, "build(problem, transition_key)"),
    "representation": (RepresentationConfig, "build(problem, context_dim)"),
    "policy_loss": (PolicyLossConfig, "build(problem, context_dim)"),
}
#: how a whole section is chosen by the name of its class
_WHOLE = {
    "encoder": "method=NAME of a method with it, or of your own: register_method(NAME, ..., encoder={0!r})",
    "representation": "method=NAME of a method with it, or of your own: register_method(NAME, "
    "representation={0!r})",
    "policy_loss": "policy_loss={0}",
}


def validate_config(config: ExperimentConfig) -> None:
    """Check every field against its rule, and fields that depend on each other.

    Raises:
        ConfigError: naming the field, what was given and what is allowed.
    """
    _check_choices(config)
    check_fields(config)
    _check_parts(config)
    require(config.seeds is None, "seeds", config.seeds, "null for a single run; see run_seeds for several")
    most = max(_MOST_THREADS, 4 * (os.cpu_count() or 1))
    require(
        config.threads <= most,
        "threads",
        config.threads,
        f"at most {most}; additional threads only wait for each other",
    )
    _check_compile(config.compile)
    config.dataset.collector.check("dataset.collector")
    _check_environment(config)
    _check_critic_gradient(config)
    _check_schedule(config)
    _check_evaluation(config)
    require_logger(config.output.logger)


def _check_compile(compile: bool | str) -> None:
    require(
        compile != "onednn" or has_onednn(),
        "compile",
        compile,
        "false, recorded or true here, because this build of PyTorch has no oneDNN",
    )
    require(
        compile is not True or has_compiler(),
        "compile",
        compile,
        "false, recorded or onednn here, because torch.compile needs a C++ compiler: install one (g++), or name "
        "it with the environment variable CXX",
    )


def _check_choices(config: ExperimentConfig) -> None:
    """Require that the name of a choice matches the class of its section, which builds something."""
    for section, registry in CHOICES.items():
        chosen = getattr(config, section)
        known = ", ".join(sorted(registry))
        require(
            chosen.name in registry,
            f"{section}.name",
            chosen.name,
            f"one of {known}",
            nearest(chosen.name, registry),
        )
        if type(chosen) is not registry.get(chosen.name):
            raise ConfigError(
                f"config field {section}.name: got {chosen.name!r}, but the section is a "
                f"{type(chosen).__name__}; choose the whole section: {_WHOLE[section].format(chosen.name)}."
            )
        base, call = _BASES[section]
        if type(chosen).build is base.build:
            raise lacks_build(chosen, base, registry, section, call)


def _check_parts(config: ExperimentConfig) -> None:
    """Check added parts: registered, complete, and not among those that the method has already."""
    taken = dict.fromkeys(
        config.representation.protocol_options, f"method={config.method} as it is configured"
    )
    for name, part in (config.parts or {}).items():
        section, known = f"parts.{name}", ", ".join(sorted(PARTS)) or "nothing"
        require(name in PARTS, section, type(part).__name__, f"one of {known}", nearest(name, PARTS))
        own = PARTS.get(name)
        require(type(part) is own, section, type(part).__name__, f"{own.__name__}, which part={name} gives")
        require(part.name == name, f"{section}.name", part.name, f"{name}, the name of the choice")
        if type(part).build is PartConfig.build:
            raise lacks_build(part, PartConfig, PARTS, section, "build(setting)")
        check_fields(part, section)
        for option in part.protocol_options:
            if option in taken:
                raise ConfigError(
                    f"part={name}: {taken[option]} has a part that provides {option!r} already; leave one out."
                )
        taken |= dict.fromkeys(part.protocol_options, f"part={name}")


def _check_environment(config: ExperimentConfig) -> None:
    if config.env == DATA_ALONE:
        require(
            config.dataset.path is not None,
            "dataset.path",
            None,
            f"the folder of a dataset with env={DATA_ALONE}, which has no environment to collect data from",
        )
        require(
            not config.evaluation.protocols,
            "evaluation.protocols",
            config.evaluation.protocols,
            f"[] with env={DATA_ALONE}: a meta-test needs an environment",
        )
        return
    try:
        tasks = make_task_set(config.env, config.tasks)
    except ValueError as error:
        known = f"one of {', '.join(get_family(config.env).presets)}"
        raise ConfigError(f"config field tasks: got {config.tasks!r}, allowed is {known}. {error}") from None
    recipe, recipes = config.dataset.recipe, recipes_of(config.env)
    known = f"one of {', '.join(recipes)}"
    require(recipe in recipes, "dataset.recipe", recipe, known, nearest(recipe, recipes))
    check_training_tasks(config, len(tasks.train_ids))


def check_training_tasks(config: ExperimentConfig, training_tasks: int) -> None:
    """Check fields that depend on the number of training tasks, which may come from the data alone.

    Raises:
        ConfigError: naming the field, what was given and what is allowed.
    """
    place = "the dataset" if config.env == DATA_ALONE else f"{config.env} with tasks={config.tasks}"
    if config.held_out is not None:
        part, parts = held_out_part(config.held_out)
        most = f"at most {training_tasks} parts, the number of training tasks of {place}"
        require(parts <= training_tasks, "held_out", config.held_out, most)
        training_tasks -= len(range(part, training_tasks, parts))
        place += f" and held_out={config.held_out}"
    require(
        config.batch.tasks <= training_tasks or config.batch.repeat_tasks,
        "batch.tasks",
        config.batch.tasks,
        f"at most {training_tasks}, the number of training tasks of {place} (or batch.repeat_tasks=true)",
    )
    facts = Facts(
        training_tasks, config.schedule.representation_updates, config.encoder, config.batch.transitions
    )
    config.representation.check(facts)
    for part in (config.parts or {}).values():
        part.check(facts)


def _check_critic_gradient(config: ExperimentConfig) -> None:
    chosen = config.representation.critic_gradient
    require(
        chosen != "pooling" or config.encoder.learns_pooling,
        "representation.critic_gradient",
        chosen,
        f"none or all with encoder.name={config.encoder.name}, whose pooling has nothing to learn (encoder.pool="
        "attention or mean_mlp has)",
    )


def _check_schedule(config: ExperimentConfig) -> None:
    schedule = config.schedule
    require(
        schedule.policy_start <= schedule.representation_end,
        "schedule.policy_start",
        schedule.policy_start,
        f"at most schedule.representation_end={schedule.representation_end}, because nothing would learn "
        "between the two",
    )


def _check_evaluation(config: ExperimentConfig) -> None:
    evaluation = config.evaluation
    evaluation.collector.check("evaluation.collector")
    options = dict.fromkeys(config.representation.protocol_options)
    for part in (config.parts or {}).values():
        options |= dict.fromkeys(part.protocol_options)
    if config.env != DATA_ALONE and get_family(config.env).task_rewards is not None:
        options["fragments"] = None
    settings = protocol_settings(
        evaluation,
        num_candidates=config.representation.num_candidates,
        encodes_unseen_tasks=config.encoder.encodes_unseen_tasks,
        options=options,
    )
    for name in evaluation.protocols:
        protocol = PROTOCOLS.get(name)
        protocol.check(settings)
        require(
            config.encoder.reads_task_alone or not protocol.needs_task_encoder,
            "evaluation.protocols",
            evaluation.protocols,
            f"anything without {name!r}, which needs an encoder with access to the task (method=oracle)",
        )
        without = sorted(each for each, kind in PROTOCOLS.items() if not kind.encodes_unseen_tasks)
        require(
            config.encoder.encodes_unseen_tasks or not protocol.encodes_unseen_tasks,
            "evaluation.protocols",
            evaluation.protocols,
            f"anything without {name!r}, which encodes evidence of unseen tasks, while encoder.name="
            f"{config.encoder.name!r} knows only the training tasks; choose from {', '.join(without)}",
        )


def check_protocol_data(config: ExperimentConfig) -> None:
    """Check that a protocol that reads data of test tasks goes with a recipe that records some.

    A collection needs no such check, so that it is no part of :func:`validate_config`.

    Raises:
        ConfigError: naming the protocol and the recipe.
    """
    reading = [name for name in config.evaluation.protocols if PROTOCOLS.get(name).needs_offline_data]
    if not reading or config.env == DATA_ALONE or config.dataset.path is not None:
        return
    recipe = get_recipe(config.dataset.recipe, config.env)
    require(
        recipe.behaviour_tasks != "train_only",
        "evaluation.protocols",
        config.evaluation.protocols,
        f"anything without {reading[0]!r}, which reads data of the test tasks, while dataset.recipe="
        f"{config.dataset.recipe} records the training tasks alone; choose evaluation.protocols without it, or "
        "another dataset.recipe",
    )


def validate_seeds(configs: Sequence[ExperimentConfig]) -> None:
    """Check that runs can be trained as one stacked computation.

    Raises:
        ConfigError: naming the field, what was given and what is allowed.
    """
    seeds, folders = [config.seed for config in configs], [config.run_dir for config in configs]
    require(len(seeds) > 0 and len(set(seeds)) == len(seeds), "seeds", seeds, "a list of different seeds")
    require(
        len(set(folders)) == len(seeds),
        "run_dir",
        folders,
        "a separate folder for every seed, such as runs/mine-${seed}",
    )
    for name, allowed in (("compile", (False, "recorded")), ("resume", (None,))):
        values = [getattr(config, name) for config in configs if getattr(config, name) not in allowed]
        require(not values, name, values, f"nothing together with seeds; run each seed by itself with {name}")
    require_logger(configs[0].output.logger, len(configs))
    alike = [replace(config, seed=0, run_dir="") for config in configs]
    require(all(config == alike[0] for config in alike), "seeds", seeds, "runs that differ in nothing else")


def protocol_names() -> tuple[str, ...]:
    """The registered protocols of the meta-test."""
    return tuple(PROTOCOLS.names())


def tells_the_task(protocol: str) -> bool:
    """Whether a protocol gives the agent privileged information about the task.

    Examples:
        >>> tells_the_task("told"), tells_the_task("np")
        (True, False)
    """
    return protocol in PROTOCOLS and PROTOCOLS.get(protocol).needs_task_encoder
