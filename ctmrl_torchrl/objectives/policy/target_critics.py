"""Shared code of losses without a value network, which estimate the next value with target critics."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.objectives.utils import _vmap_func, distance_loss

from ctmrl_torchrl.modules.keys import join_key
from ctmrl_torchrl.modules.policies import make_actor, make_qvalue
from ctmrl_torchrl.objectives.policy.base import PolicyLossConfig
from ctmrl_torchrl.objectives.policy.transitions import TransitionLoss
from ctmrl_torchrl.problem import Problem


class TargetCriticLoss(TransitionLoss):
    """A :class:`TransitionLoss` with an actor and critics, whose target critics estimate the next value.

    Only the critics' regression has a gradient with respect to the batch, so a method may let it reach the
    task context. The actor reads a detached copy of the batch.
    """

    value_field = "state_action_value"
    value_network: Any = None
    # TorchRL's losses that assign a list here do not support select_out_keys.
    out_keys = TensorDictModuleBase.out_keys
    reward_scale: float
    loss_function: str
    deactivate_vmap: bool

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        self._outcome_keys = [join_key("next", key) for key in (keys.reward, keys.done, keys.terminated)]
        self._judged = all(keys.action in critic.in_keys for critic in self.critics())
        read = [*self.actor_network.in_keys, *(k for critic in self.critics() for k in critic.in_keys)]
        following = [join_key("next", key) for key in read if key != keys.action]
        self.in_keys = list(dict.fromkeys([keys.action, *self._outcome_keys, *read, *following]))

    def _make_vmap(self) -> None:
        super()._make_vmap()
        self._stacked_qvalue = _vmap_func(
            self.qvalue_network, (None, 0), randomness=self.vmap_randomness, pseudo_vmap=self.deactivate_vmap
        )

    def _stacked_values(self, batch: TensorDictBase, params: TensorDictBase, lead: tuple[int, ...]) -> Tensor:
        """Values of all critics for a batch, ``[critics, *lead]``."""
        stacked = self._stacked_qvalue(batch.select(*self.qvalue_network.in_keys, strict=False), params)
        return self._column(stacked, self.tensor_keys.state_action_value, ("critics", *lead))

    def _regress_critics(
        self, tensordict: TensorDictBase, next_value: Tensor, lead: tuple[int, ...]
    ) -> tuple[Tensor, Tensor]:
        """Squared errors ``[*lead]`` summed over critics, and the detached errors of each critic."""
        seen, reward_key = tensordict.copy(), self._outcome_keys[0]
        seen.set(reward_key, self.reward_scale * tensordict.get(reward_key))
        seen.set(join_key("next", self.tensor_keys.state_action_value), next_value.unsqueeze(-1))
        with torch.no_grad():
            target = self.value_estimator.value_estimate(seen).squeeze(-1)
        values = self._stacked_values(tensordict, self.qvalue_network_params, lead)
        error = distance_loss(values, target.expand_as(values), loss_function=self.loss_function).sum(0)
        return error, (values - target).square().detach()

    def _with_action(self, batch: TensorDictBase, action: Tensor) -> TensorDictBase:
        """A copy of the batch with another action."""
        return batch.copy().set(self.tensor_keys.action, action)


def actor_and_critic(config: PolicyLossConfig, problem: Problem, context_dim: int) -> tuple[Any, Any]:
    """The two networks of a loss without a value network."""
    arguments: dict[str, Any] = config.network_arguments(problem, context_dim) | {
        "action_dim": problem.action_dim
    }
    return make_actor(**arguments), make_qvalue(**arguments)
