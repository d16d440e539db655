"""Implicit Q-learning: TorchRL's own loss, with this library's defaults."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict.nn import TensorDictModuleBase
from torchrl.objectives import IQLLoss, ValueEstimators

from ctmrl_torchrl.objectives.policy.base import PolicyLossConfig
from ctmrl_torchrl.problem import Problem


def make_iql_loss(
    actor_network: TensorDictModuleBase,
    qvalue_network: TensorDictModuleBase,
    value_network: TensorDictModuleBase,
    *,
    gamma: float = 0.99,
    expectile: float = 0.8,
    temperature: float = 10.0,
    num_qvalue_nets: int = 2,
) -> IQLLoss:
    """Build ``torchrl.objectives.IQLLoss`` with squared errors and its value estimator already made.

    Args:
        actor_network, qvalue_network, value_network: context-conditioned networks, as made by
            :func:`~ctmrl_torchrl.modules.make_actor` and friends.
        gamma (float): discount factor.
        expectile (float): the expectile of the value regression, in (0.5, 1).
        temperature (float): inverse temperature of the advantage weights.
        num_qvalue_nets (int): size of the critic ensemble.
    """
    loss = IQLLoss(
        actor_network,
        qvalue_network,
        value_network,
        num_qvalue_nets=num_qvalue_nets,
        loss_function="l2",
        expectile=expectile,
        temperature=temperature,
    )
    loss.set_keys(value=value_network.out_keys[-1], state_action_value=qvalue_network.out_keys[-1])
    # Made now rather than lazily, so that a fresh loss can load the state of a used one.
    loss.make_value_estimator(ValueEstimators.TD0, gamma=gamma)
    return loss


@dataclass
class IQLConfig(PolicyLossConfig):
    """Configuration of implicit Q-learning; see :func:`make_iql_loss`."""

    name: str = "iql"
    expectile: float = 0.8
    temperature: float = 10.0

    def build(self, problem: Problem, context_dim: int) -> IQLLoss:
        """Build the loss with its networks."""
        return make_iql_loss(
            *self.networks(problem, context_dim),
            gamma=problem.discount,
            expectile=self.expectile,
            temperature=self.temperature,
        )
