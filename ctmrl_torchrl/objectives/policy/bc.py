"""Behavior cloning: TorchRL's loss, for imitation of the best trajectories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import BCLoss, LossModule

from ctmrl_torchrl.modules.policies import make_actor
from ctmrl_torchrl.objectives.checks import known_reduction, require_same_action, require_transitions
from ctmrl_torchrl.objectives.key_names import NamedKeys
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.typed import dispatch


class OfflineBCLoss(NamedKeys, BCLoss):
    """``torchrl.objectives.BCLoss`` on the deterministic action, one loss per transition.

    Additional guarantees: the input is not modified; padding is excluded; ``in_keys`` are complete and ordered;
    errors name the wrong entry.

    Args:
        actor_network: reads observation and task context.

    Keyword Args:
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``.

    Keys, output and errors: see :func:`make_bc_loss`.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> loss = OfflineBCLoss(make_actor(observation_dim=3, context_dim=4, action_dim=2))
        >>> loss.in_keys
        ['action', 'observation', 'task_context']
    """

    tensor_keys: Any
    actor_network: Any
    target_actor_network_params: Any  # never set; without the annotation, TorchRL warns

    def __init__(self, actor_network: TensorDictModuleBase, *, reduction: str = "mean") -> None:
        super().__init__(actor_network, loss_function=self._action_error, reduction=reduction)  # pyright: ignore[reportArgumentType]

    def _set_in_keys(self) -> None:
        self._in_keys = list(dict.fromkeys([self.tensor_keys.action, *self.actor_network.in_keys]))

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """Raise an error, because imitation does not bootstrap."""
        raise NotImplementedError(f"{type(self).__name__} has no value estimator; it imitates actions.")

    def _action_error(self, action: Tensor, data_action: Tensor) -> Tensor:
        """``mean((a_pi - a)^2)`` over the dimensions of the action, ``[*]``."""
        require_same_action(action, data_action, key=self.tensor_keys.action, reader=type(self).__name__)
        return (action - data_action).square().mean(-1)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the loss of one batch."""
        action = self.tensor_keys.action
        lead = require_transitions(
            tensordict, self.in_keys or (), action=action, columns=(), reader=type(self).__name__
        )
        batch = tensordict.copy()
        batch.batch_size = lead  # pyright: ignore[reportAttributeAccessIssue] (a property)
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            out = super().forward(batch)
        if self.reduction == "none":
            out.batch_size = lead  # pyright: ignore[reportAttributeAccessIssue]
        return out


class NoTargets:
    """Target update of a loss without target networks.

    Examples:
        >>> NoTargets().step()
    """

    def step(self) -> None:
        """Do nothing."""


def make_bc_loss(actor_network: TensorDictModuleBase, *, reduction: str = "mean") -> OfflineBCLoss:
    """Build ``torchrl.objectives.BCLoss`` with squared errors of the deterministic action.

    - ``loss_bc``: ``mean((a_pi - a)^2)`` over transitions and action dimensions

    Behavior cloning is only as good as the transitions that it imitates. On data of mixed quality, imitate the
    best trajectories of each task (``batch.best_share``), known as "10 % BC" in comparisons of offline RL. If
    returns depend on chance, the best trajectories are the lucky ones, and the policy imitates luck.

    Args:
        actor_network: context-conditioned actor, as made by :func:`~ctmrl_torchrl.modules.make_actor`.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"``; ``"none"`` keeps the batch shape.

    Keys (see ``set_keys``); ``*`` is a batch of any shape:
        - ``action`` ``[*, actions]``
        - all in-keys of the actor
        - ``("collector", "mask")`` (optional): excludes padding

    Out: ``loss_bc``; its gradient reaches the actor only. The actor's standard deviation is not trained, so act
    with the deterministic action.

    Targets: none. There are no critics either.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if the actor's output has another shape than the action; for an unknown ``reduction``.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules import make_actor
        >>> loss = make_bc_loss(make_actor(observation_dim=3, context_dim=4, action_dim=2))
        >>> state = {"observation": torch.randn(6, 3), "task_context": torch.randn(6, 4)}
        >>> loss(TensorDict({"action": torch.rand(6, 2), **state}, [6]))["loss_bc"].shape
        torch.Size([])
    """
    return OfflineBCLoss(actor_network, reduction=known_reduction(reduction, "make_bc_loss"))


@POLICY_LOSSES.register("bc")
@dataclass
class BCConfig(PolicyLossConfig):
    """Configuration of behavior cloning; see :func:`make_bc_loss`. ``target_rate`` and
    ``timeout_is_terminal`` have no effect.

    Examples:
        >>> import torch
        >>> from ctmrl_torchrl.problem import Problem
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> BCConfig(hidden=[8]).build(problem, 4).out_keys
        ['loss_bc']
    """

    name: str = "bc"

    def build(self, problem: Problem, context_dim: int) -> OfflineBCLoss:
        """Build the loss with its actor."""
        arguments = self.network_arguments(problem, context_dim)
        return make_bc_loss(make_actor(**arguments, action_dim=problem.action_dim))

    def target_update(self, loss: LossModule) -> NoTargets:
        """There are no targets to update."""
        return NoTargets()
