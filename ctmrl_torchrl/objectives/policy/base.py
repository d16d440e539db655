"""What every policy loss brings along: a configuration that knows how to build it and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torchrl.objectives import LossModule, SoftUpdate

from ctmrl_torchrl.modules.policies import make_actor, make_qvalue, make_value
from ctmrl_torchrl.modules.standardise import finer
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import POSITIVE, SHARE, WIDTHS, or_none, ruled

#: configurations of policy losses by the name that ``policy_loss.name`` has
POLICY_LOSSES: Registry[type[PolicyLossConfig]] = Registry("policy loss")


class TargetUpdate(Protocol):
    """What moves target parameters after an update, as TorchRL's updaters do.

    Examples:
        >>> class NoTargets:
        ...     def step(self) -> None: ...
        >>> update: TargetUpdate = NoTargets()
    """

    def step(self) -> None:
        """Called after every update of the policy."""


@dataclass
class PolicyLossConfig:
    """Base of the policy-loss configurations; register a subclass with ``POLICY_LOSSES.register(name)``.

    Args:
        name (str): the loss's name, as chosen by ``policy_loss=NAME``.
        hidden (list of int): widths of actor and critics.
        target_rate (float): rate of the moving target parameters.
        observation_gain (float or None): actor and critics see the observation standardized by the training
            data and times this; None leaves it as it is. Networks learn coarse structure first, and the last
            bit of return is decided by differences much finer than the spread of the data.

    Examples:
        >>> import torch
        >>> from ctmrl_torchrl.problem import Problem
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> [network.out_keys[-1] for network in PolicyLossConfig(hidden=[8]).networks(problem, 4)]
        ['action', 'state_action_value', 'state_value']
    """

    name: str = "none"
    hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    target_rate: float = ruled(0.005, SHARE)
    observation_gain: float | None = ruled(None, or_none(POSITIVE))

    @property
    def label(self) -> str:
        """The choice ``policy_loss=LABEL`` that this is, as summaries call it."""
        return self.name

    def network_arguments(self, problem: Problem, context_dim: int) -> dict[str, Any]:
        """What every network on (observation, task_context) is made with."""
        return {
            "observation_dim": problem.observation_dim,
            "context_dim": context_dim,
            "hidden": self.hidden,
            "observation_statistics": finer(problem.statistics["observation"], self.observation_gain),
        }

    def networks(self, problem: Problem, context_dim: int) -> tuple[Any, Any, Any]:
        """Actor, critic and value network."""
        arguments = self.network_arguments(problem, context_dim)
        return (
            make_actor(**arguments, action_dim=problem.action_dim),
            make_qvalue(**arguments, action_dim=problem.action_dim),
            make_value(**arguments),
        )

    def build(self, problem: Problem, context_dim: int) -> LossModule:
        """Build the loss with its networks."""
        raise ValueError(
            f"policy_loss.name={self.name!r} names no policy loss; choose one of "
            f"{', '.join(sorted(POLICY_LOSSES))}."
        )

    def parameter_groups(self, loss: LossModule) -> list[ParameterGroup]:
        """What is optimized, and at which rates: all of it at the policy's rate."""
        return [ParameterGroup.of("policy", [loss], schedule="policy")]

    def target_update(self, loss: LossModule) -> TargetUpdate:
        """What moves the targets after every update of the policy."""
        return SoftUpdate(loss, tau=self.target_rate)
