"""Estimates the minimum memory of a run from its configuration, before anything is built."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from ctmrl_torchrl.collectors import PROTOCOLS
from ctmrl_torchrl.data import get_recipe
from ctmrl_torchrl.envs import get_family
from ctmrl_torchrl.rules import WIDTHS, ConfigError, allocated_rows, require, rule_of
from ctmrl_torchrl.training.config import DATA_ALONE, ExperimentConfig

_FLOAT = 4
#: a parameter, its gradient and the two moments of Adam
_COPIES = 4
#: contexts up to this length may repeat the transitions of small datasets
_ALWAYS_ALLOWED = 4096
#: context samples per task, and networks that a representation evaluates on each
_DRAWS, _PREDICTIONS = 2, 2
#: evaluations of a policy loss: an actor, two critics of two actions, a value and its target
_POLICY_NETWORKS = 7
#: for a layer wider than this, the error names the width rather than the number of rows
_WIDE = 4096
#: fraction available to the run; the system and the interpreter need the rest
_SHARE = 0.9
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class MemoryEstimate:
    """The minimum number of bytes that a run needs.

    Args:
        parameters: parameters with gradients and optimizer state. batch: a meta-batch. activations: activations
            stored for the backward pass. meta_test: episodes of the largest meta-test. others: tensors of the
            method. cause: the field that contributes most, with its value.
    """

    parameters: int
    batch: int
    activations: int
    meta_test: int
    others: int
    cause: str

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return self.parameters + self.batch + self.activations + self.meta_test + self.others

    def __str__(self) -> str:
        parts = ("parameters and optimizer", self.parameters), ("batch", self.batch)
        parts = (*parts, ("activations", self.activations), ("meta-test", self.meta_test))
        parts = (*parts, ("the method's own", self.others)) if self.others else parts
        return ", ".join(f"{name} {value / 1e9:.3g} GB" for name, value in parts)


def estimate_memory(config: ExperimentConfig, sizes: tuple[int, int, int] | None = None) -> MemoryEstimate:
    """Estimate the minimum size of networks, a meta-batch and a meta-test. Unknown sizes count as small.

    Args:
        config: the whole run.
        sizes: observation and action features and the horizon, if the data are known.

    Examples:
        >>> from ctmrl_torchrl.modules import EncoderConfig
        >>> config = ExperimentConfig(encoder=EncoderConfig())
        >>> config.context.kind, config.context.length = "transitions", 1000
        >>> less = estimate_memory(config)
        >>> config.context.length = 100_000
        >>> estimate_memory(config).activations > 10 * less.activations
        True
    """
    observation, action, horizon = sizes or _sizes(config)
    size = getattr(config.encoder, "context_dim", 1)
    size = size if isinstance(size, int) else 1
    width_in = 2 * observation + action + 1
    # A length must be valid even if the selected kind of context does not use it.
    length = max(config.context.build().context_length(horizon), config.context.length)
    contexts = _DRAWS * config.batch.tasks * length
    rows = config.batch.tasks * config.batch.transitions
    predicted = contexts if getattr(config.representation, "predict", "context") == "context" else rows
    evaluated = {
        "encoder": contexts,
        "representation": _PREDICTIONS * predicted,
        "policy_loss": _POLICY_NETWORKS * rows,
    }
    parameters, activations, wide = {}, {}, {}
    holders = {section: getattr(config, section) for section in evaluated}
    holders |= {f"parts.{name}": part for name, part in (config.parts or {}).items()}
    for section, holder in holders.items():
        for name, widths in _layers(holder, section):
            first = width_in if section == "encoder" else observation + size
            pairs = zip([first, *widths], [*widths, 1], strict=True)
            parameters[f"{name}={widths}"] = sum(before * after for before, after in pairs) * _FLOAT * _COPIES
            wide[f"{name}={widths}"] = max(widths) > _WIDE
            times = evaluated.get(section, evaluated["representation"])
            activations[f"{name}={widths}"] = sum(widths) * times * _FLOAT
    field = "context.length" if length == config.context.length else "context.trajectories"
    value = getattr(config.context, field.split(".")[1])
    batch = {
        f"{field}={value} and batch.tasks={config.batch.tasks}": contexts * width_in * _FLOAT,
        f"batch.transitions={config.batch.transitions}": rows * width_in * _FLOAT,
    }
    meta_test = _meta_test(config, horizon, width_in)
    others = {
        f"{section}.{name}={getattr(holder, name)}": rows * width_in * _FLOAT
        for section, holder in holders.items()
        if section not in ("encoder", "policy_loss")
        for name, rows in allocated_rows(holder, config.batch.tasks).items()
    }
    asked = parameters | batch | meta_test | others
    by_contexts, by_transitions = batch
    for name, amount in activations.items():
        rows_asked = by_transitions if name.startswith("policy_loss") else by_contexts
        asked[name if wide[name] else rows_asked] += amount
    return MemoryEstimate(
        sum(parameters.values()),
        sum(batch.values()),
        sum(activations.values()),
        max(meta_test.values(), default=0),
        sum(others.values()),
        max(asked, key=asked.__getitem__),
    )


def _meta_test(config: ExperimentConfig, horizon: int, width: int) -> dict[str, int]:
    """An episode of every row at least; all that are collected, where the protocol keeps them."""
    evaluation = config.evaluation
    if config.env == DATA_ALONE or not evaluation.protocols:
        return {}
    counts = get_family(config.env).task_counts(config.tasks)
    repeats = {"final_repeats": evaluation.final_repeats}
    repeats |= {"repeats": evaluation.repeats} if evaluation.every else {}
    keeping = any(PROTOCOLS.get(name).keeps_episodes for name in evaluation.protocols)
    kept = max(evaluation.episodes - 1, 1) if keeping else 1
    name, most = max(repeats.items(), key=lambda each: each[1])
    rows = max(counts) * most
    cause = "episodes" if kept > most else name
    field = f"evaluation.{cause}={getattr(evaluation, cause)}"
    return {field: rows * (kept * horizon * width + evaluation.episodes) * _FLOAT}


def available_memory(device: torch.device) -> int | None:
    """Total bytes available to a process on a device; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type != "cpu":
        return None
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limits = [int(text) for text in map(_content, _CGROUP_LIMITS) if text.isdigit()]
    return min([total, *limits])


def check_memory(
    config: ExperimentConfig, device: torch.device, sizes: tuple[int, int, int] | None = None
) -> None:
    """Reject sizes that cannot fit into memory; ``sizes`` as for :func:`estimate_memory`.

    Raises:
        ConfigError: with the estimate and the field that contributes most.
    """
    available, estimate = available_memory(device), estimate_memory(config, sizes)
    _check_context(config, estimate)
    if available is not None and estimate.total > _SHARE * available:
        raise ConfigError(
            f"config field {estimate.cause}: the run would need at least {estimate.total / 1e9:.3g} GB of memory "
            f"({estimate}), but {device} has {available / 1e9:.3g} GB; choose smaller sizes."
        )


class OutOfMemoryError(RuntimeError):
    """Memory ran out during a run; the last checkpoint is kept."""


@contextmanager
def memory_errors(config: ExperimentConfig) -> Iterator[None]:
    """Raise a readable error if memory runs out inside the block.

    Raises:
        OutOfMemoryError: in place of torch's and Python's own errors, with the estimate for this run.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        first = (str(error).splitlines() or [""])[0]
        said = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in first
        if not said or isinstance(error, OutOfMemoryError):
            raise
        estimate = estimate_memory(config)
        raise OutOfMemoryError(
            f"memory has run out ({first[:200] or type(error).__name__}). The run needs at least "
            f"{estimate.total / 1e9:.3g} GB ({estimate}), most of it for {estimate.cause}; choose smaller sizes."
        ) from error


def _check_context(config: ExperimentConfig, estimate: MemoryEstimate) -> None:
    """Reject contexts that are longer than all data of a task and would only repeat them."""
    if config.env == DATA_ALONE or config.dataset.path is not None:
        return
    family = get_family(config.env)
    recipe = get_recipe(config.dataset.recipe, config.env)
    held = len(recipe.all_steps) * recipe.trajectories_per_snapshot * family.horizon
    most = max(held, _ALWAYS_ALLOWED)
    require(
        config.context.length <= most,
        "context.length",
        config.context.length,
        f"at most {most}: dataset.recipe={config.dataset.recipe} collects {held} transitions per task; a longer "
        f"context would repeat them and need at least {estimate.total / 1e9:.3g} GB of memory ({estimate})",
    )


def _sizes(config: ExperimentConfig) -> tuple[int, int, int]:
    """Observation size, action size and horizon; minimum values if only the dataset defines them."""
    if config.env == DATA_ALONE:
        return 1, 1, 1
    family = get_family(config.env)
    return family.observation_dim, family.action_dim, family.horizon


def _layers(configuration: Any, path: str) -> Iterator[tuple[str, list[int]]]:
    """All fields that set layer widths, with their names."""
    for each in fields(configuration):
        value = getattr(configuration, each.name)
        widths = isinstance(value, list) and each.name.endswith("hidden") and value
        if widths or rule_of(configuration, each.name) is WIDTHS:
            yield f"{path}.{each.name}", list(value)
        elif is_dataclass(value):
            yield from _layers(value, f"{path}.{each.name}")


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
