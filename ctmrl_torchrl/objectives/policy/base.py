"""What every policy loss brings along: a configuration that knows how to build it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.policies import make_actor, make_qvalue, make_value
from ctmrl_torchrl.problem import Problem


@dataclass
class PolicyLossConfig:
    """Base of the policy-loss configurations.

    Args:
        name (str): the loss's name, as chosen by ``policy_loss=NAME``.
        hidden (list of int): widths of actor and critics.
        target_rate (float): rate of the moving target parameters.
    """

    name: str = "none"
    hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    target_rate: float = 0.005

    def networks(self, problem: Problem, context_dim: int) -> tuple[Any, Any, Any]:
        """Actor, critic and value network on (observation, task_context)."""
        sizes = {
            "observation_dim": problem.observation_dim,
            "context_dim": context_dim,
            "hidden": self.hidden,
        }
        return (
            make_actor(**sizes, action_dim=problem.action_dim),
            make_qvalue(**sizes, action_dim=problem.action_dim),
            make_value(**sizes),
        )

    def build(self, problem: Problem, context_dim: int) -> LossModule:
        """Build the loss with its networks."""
        raise ValueError(
            f"policy_loss={self.name!r} names no policy loss; choose policy_loss=brac_sac or iql."
        )
