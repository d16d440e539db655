"""Acting with the policy inside a policy loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torchrl.objectives import LossModule


class ActingPolicy(TensorDictModuleBase):
    """Acts with the current parameters of a loss's ``actor_network``. It shares them, so it is always up to date.

    Args:
        policy_loss (LossModule): any loss with a functional ``actor_network`` (SAC, IQL, ...).

    Keys: the keys of the actor.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules import make_actor, make_qvalue, make_value
        >>> from ctmrl_torchrl.objectives import make_iql_loss
        >>> sizes = dict(observation_dim=3, context_dim=4)
        >>> loss = make_iql_loss(
        ...     make_actor(action_dim=2, **sizes), make_qvalue(action_dim=2, **sizes), make_value(**sizes)
        ... )
        >>> td = TensorDict({"observation": torch.zeros(5, 3), "task_context": torch.zeros(5, 4)}, [5])
        >>> ActingPolicy(loss)(td)["action"].shape
        torch.Size([5, 2])
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(self, policy_loss: LossModule) -> None:
        super().__init__()
        self.policy_loss: Any = policy_loss
        self.in_keys = list(self.policy_loss.actor_network.in_keys)
        self.out_keys = list(self.policy_loss.actor_network.out_keys)

    @contextmanager
    def bound(self) -> Iterator[TensorDictModuleBase]:
        """The actor network with the loss's parameters inserted, for many calls between two updates."""
        with self.policy_loss.actor_network_params.data.to_module(self.policy_loss.actor_network):
            yield self.policy_loss.actor_network

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the action. The current exploration type decides between deterministic and random actions."""
        with self.bound() as actor:
            return actor(tensordict)
