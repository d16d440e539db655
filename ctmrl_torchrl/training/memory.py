"""How much memory a run needs at least, estimated from its configuration before anything is built."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch

from ctmrl_torchrl.envs import get_family
from ctmrl_torchrl.rules import WIDTHS, ConfigError, rule_of
from ctmrl_torchrl.training.config import DATA_ALONE, ExperimentConfig

_FLOAT = 4
#: a parameter, its gradient and the two moments of Adam
_COPIES = 4
#: what a layer needs of every row: its output, kept for the backward pass, and that output's gradient
_KEPT = 2
#: draws of a context; networks that a representation evaluates on each
_DRAWS, _PREDICTIONS = 2, 2
#: networks of a policy loss: an actor, two critics, a value
_POLICY_NETWORKS = 4
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a run needs at least.

    Args:
        parameters: with gradients and the optimizer's state. batch: a meta-batch. activations: what the
            backward pass needs of it. cause: the field that asks for most, with its value.
    """

    parameters: int
    batch: int
    activations: int
    cause: str

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.batch + self.activations

    def __str__(self) -> str:
        parts = ("parameters and optimizer", self.parameters), ("batch", self.batch)
        parts = (*parts, ("activations", self.activations))
        return ", ".join(f"{name} {value / 1e9:.3g} GB" for name, value in parts)


def estimate_memory(config: ExperimentConfig) -> MemoryEstimate:
    """The least that networks and a meta-batch take; what is not known counts as little.

    Examples:
        >>> config = ExperimentConfig()
        >>> config.context.kind, config.context.length = "transitions", 100
        >>> less = estimate_memory(config).total
        >>> config.context.length = 1000
        >>> estimate_memory(config).total > 5 * less
        True
    """
    observation, action, horizon = _sizes(config)
    size = getattr(config.encoder, "context_dim", 1)
    size = size if isinstance(size, int) else 1
    width_in = 2 * observation + action + 1
    # A length that the kind of context does not use must be one that could be used.
    length = max(config.context.build().context_length(horizon), config.context.length)
    contexts = _DRAWS * config.batch.tasks * length
    rows = config.batch.tasks * config.batch.transitions
    predicted = contexts if getattr(config.representation, "predict", "context") == "context" else rows
    evaluated = {
        "encoder": contexts,
        "representation": _PREDICTIONS * predicted,
        "policy_loss": _POLICY_NETWORKS * rows,
    }
    parameters, activations = {}, {}
    for section in ("encoder", "representation", "policy_loss"):
        for name, widths in _layers(getattr(config, section), section):
            first = width_in if section == "encoder" else observation + size
            pairs = zip([first, *widths], [*widths, 1], strict=True)
            parameters[f"{name}={widths}"] = sum(before * after for before, after in pairs) * _FLOAT * _COPIES
            activations[f"{name}={widths}"] = sum(widths) * evaluated[section] * _FLOAT * _KEPT
    field = "context.length" if length == config.context.length else "context.trajectories"
    value = getattr(config.context, field.split(".")[1])
    batch = {
        f"{field}={value} and batch.tasks={config.batch.tasks}": contexts * width_in * _FLOAT,
        f"batch.transitions={config.batch.transitions}": rows * width_in * _FLOAT,
    }
    asked = parameters | batch
    by_contexts = sum(amount for name, amount in activations.items() if not name.startswith("policy_loss"))
    first, second = batch
    asked[first] += by_contexts
    asked[second] += sum(activations.values()) - by_contexts
    return MemoryEstimate(
        sum(parameters.values()),
        sum(batch.values()),
        sum(activations.values()),
        max(asked, key=asked.__getitem__),
    )


def available_memory(device: torch.device) -> int | None:
    """Bytes that a process can have in all on a device; None where that is not known."""
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


def check_memory(config: ExperimentConfig, device: torch.device) -> None:
    """Refuse sizes that cannot fit.

    Raises:
        ConfigError: with the estimate and the field that asks for most.
    """
    available, estimate = available_memory(device), estimate_memory(config)
    if available is not None and estimate.total > available:
        raise ConfigError(
            f"config field {estimate.cause}: the run would need at least {estimate.total / 1e9:.3g} GB of memory "
            f"({estimate}), but {device} has {available / 1e9:.3g} GB; choose smaller sizes."
        )


def _sizes(config: ExperimentConfig) -> tuple[int, int, int]:
    """Features of observation and action, and the horizon; the least where only the data know them."""
    if config.env == DATA_ALONE:
        return 1, 1, 1
    family = get_family(config.env)
    return family.observation_dim, family.action_dim, family.horizon


def _layers(configuration: Any, path: str) -> Iterator[tuple[str, list[int]]]:
    """All fields that are widths of layers, with their names."""
    for each in fields(configuration):
        value = getattr(configuration, each.name)
        if rule_of(configuration, each.name) is WIDTHS:
            yield f"{path}.{each.name}", list(value)
        elif is_dataclass(value):
            yield from _layers(value, f"{path}.{each.name}")


def _content(file: str) -> str:
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
