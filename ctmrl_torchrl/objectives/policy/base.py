"""The base configuration of policy losses, which defines how a loss is built and trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torchrl.objectives import LossModule, SoftUpdate

from ctmrl_torchrl.modules.policies import make_actor, make_qvalue, make_value
from ctmrl_torchrl.modules.standardise import finer
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import POSITIVE, SHARE, SWITCH, WIDTHS, lacks_build, or_none, ruled

#: configurations of policy losses by ``policy_loss.name``
POLICY_LOSSES: Registry[type[PolicyLossConfig]] = Registry("policy loss")


class TargetUpdate(Protocol):
    """Protocol of an object that updates target parameters, such as TorchRL's updaters.

    Checkpoints include the counter of a ``HardUpdate``, and the state of an updater that has ``state_dict`` and
    ``load_state_dict``.

    Examples:
        >>> class NoTargets:
        ...     def step(self) -> None: ...
        >>> update: TargetUpdate = NoTargets()
    """

    def step(self) -> None:
        """Update the targets. Called after every policy update."""


@dataclass
class PolicyLossConfig:
    """Base class of policy-loss configurations. Register a subclass with ``POLICY_LOSSES.register(name)``.

    Args:
        name (str): name of the loss, as in ``policy_loss=NAME``.
        hidden (list of int): hidden layers of actor and critics.
        target_rate (float): soft-update rate of the target networks.
        observation_gain (float or None): actor and critics receive the observation standardized with the
            training data and multiplied by this value; None disables this. Networks learn coarse structure
            first, and the final improvement in return depends on differences much smaller than the spread of
            the data.
        timeout_is_terminal (bool): whether critics take the end of an episode at its time limit for a terminal
            state, as the releases of FOCAL, CSRO, IDAQ, ER-TRL and GENTLE do. Otherwise they bootstrap there.

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
    timeout_is_terminal: bool = ruled(False, SWITCH)

    @property
    def label(self) -> str:
        """The corresponding choice ``policy_loss=LABEL``, as recorded in summaries."""
        return self.name

    def network_arguments(self, problem: Problem, context_dim: int) -> dict[str, Any]:
        """Arguments that all networks on (observation, task_context) share."""
        return {
            "observation_dim": problem.observation_dim,
            "context_dim": context_dim,
            "hidden": self.hidden,
            "observation_statistics": finer(problem.statistics["observation"], self.observation_gain),
        }

    def networks(self, problem: Problem, context_dim: int) -> tuple[Any, Any, Any]:
        """Actor, critic and value network.

        A saved agent is rebuilt from this actor, so ``build()`` must train it. A run checks that first.
        """
        arguments = self.network_arguments(problem, context_dim)
        return (
            make_actor(**arguments, action_dim=problem.action_dim),
            make_qvalue(**arguments, action_dim=problem.action_dim),
            make_value(**arguments),
        )

    def build(self, problem: Problem, context_dim: int) -> LossModule:
        """Build the loss with its networks.

        Raises:
            ConfigError: if a subclass does not define this method.
        """
        raise lacks_build(self, PolicyLossConfig, POLICY_LOSSES, "policy_loss", "build(problem, context_dim)")

    def build_keyed(self, problem: Problem, context_dim: int) -> LossModule:
        """Build the loss, and name the entry that marks terminal states according to ``timeout_is_terminal``."""
        loss = self.build(problem, context_dim)
        keys: Any = loss.tensor_keys
        if self.timeout_is_terminal and hasattr(keys, "terminated"):
            loss.set_keys(terminated=keys.done)
        return loss

    def parameter_groups(self, loss: LossModule) -> list[ParameterGroup]:
        """The parameter groups to optimize; by default all parameters at the policy's learning rate."""
        return [ParameterGroup.of("policy", [loss], schedule="policy")]

    def target_update(self, loss: LossModule) -> TargetUpdate:
        """The updater of the target networks."""
        return SoftUpdate(loss, tau=self.target_rate)
