"""Learning rates and phases as functions of the update number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.training.config import OptimizerConfig, ScheduleConfig
from ctmrl_torchrl.typed import total


def cosine_fall(progress: float, start: float, end: float, final: float) -> float:
    """Cosine decay from 1 at ``start`` to ``final`` at ``end``."""
    if progress <= start:
        return 1.0
    if progress >= end:
        return final
    share = (progress - start) / (end - start)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share))


def phase_milestones(schedule: ScheduleConfig) -> dict[str, float]:
    """Updates at which the policy starts learning and the encoder stops, by name."""
    return {
        "policy begins": schedule.policy_start * schedule.updates,
        "encoder is fixed": schedule.representation_updates,
    }


class PhaseSchedule:
    """Sets the learning rates of all parameter groups and freezes the representation or the policy.

    Args:
        optimizer (torch.optim.Optimizer): one parameter group for each of ``groups``, with its name.
        groups (sequence of ParameterGroup): the schedule and factor of each group.
        loss (MetaLoss): its ``representation_frozen`` and ``policy_frozen`` are set.
        rates, schedule: sections of the configuration.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        groups: Sequence[ParameterGroup],
        loss: MetaLoss,
        rates: OptimizerConfig,
        schedule: ScheduleConfig,
    ) -> None:
        self.optimizer = optimizer
        self.loss = loss
        self.rates = rates
        self.schedule = schedule
        self._followed = {group.name: (group.schedule, group.scale) for group in groups}

    def before_update(self, update: int) -> None:
        """Set the rates for update number ``update`` (from 0)."""
        schedule, rates = self.schedule, self.rates
        progress = update / schedule.updates
        end = schedule.representation_end
        policy_share = cosine_fall(progress, rates.policy_decay_from, 1.0, rates.policy_final)
        current = {
            "representation": rates.representation_rate * cosine_fall(progress, 0.0, end, 0.0),
            "policy": rates.policy_rate * policy_share,
        }
        for group in self.optimizer.param_groups:
            followed, scale = self._followed[group["name"]]
            _set_rate(group, current[followed] * scale)
        self.loss.representation_frozen = progress >= end
        self.loss.policy_frozen = progress < schedule.policy_start


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """Set a learning rate, in place if it is a tensor, because a captured update reads the same memory."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def total_loss(losses: TensorDictBase, agents: int | None = None) -> Tensor:
    """Sum of the outputs whose name starts with ``loss_``.

    Args:
        losses: terms and diagnostics by name. agents (int, optional): number of stacked agents, each of which
            has one value per term.

    Raises:
        ValueError: with the first term that is not one number (per agent), and its shape.
    """
    terms = {name: value for name, value in losses.items() if name.startswith("loss_")}
    for name, value in terms.items():
        if value.numel() != (agents or 1):
            shape = list(value.shape if agents is None else value.shape[1:])
            raise ValueError(
                f"The term {name!r} has shape {shape}, expected [], one number; reduce it in forward, for "
                "example with .mean()."
            )
    return total(terms.values())
