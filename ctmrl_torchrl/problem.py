"""The description of an environment and its data that modules and losses need."""

from __future__ import annotations

from dataclasses import dataclass

from tensordict.utils import NestedKey
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Sizes, keys and statistics that turn a configuration into modules and losses.

    Args:
        observation_dim, action_dim (int): sizes of observation and policy-side action.
        discount (float): gamma.
        reward_key (NestedKey): the reward that the encoder reads and that is predicted from the context, e.g.
            ``("next", "reward")``; the policy always learns from ``("next", "reward")``.
        context_next_observation (bool): whether contexts include the next observation.
        statistics (dict): mean and standard deviation, each ``[features]``, of ``observation``, ``action``,
            ``("next", "observation")``, ``"observation_change"`` (next minus present) and ``reward_key``.
        num_tasks (int): number of tasks in both splits.
        task_parameters (Tensor or None): ``[num_tasks, k]``, the parameters of every task by ``task_id``, with
            mean 0 and standard deviation 1 over the training tasks: privileged information, only for oracles.
        train_ids (tuple of int): ids of the training tasks; empty if unknown.
    """

    observation_dim: int
    action_dim: int
    discount: float
    reward_key: NestedKey
    context_next_observation: bool
    statistics: dict[NestedKey, tuple[Tensor, Tensor]]
    num_tasks: int = 0
    task_parameters: Tensor | None = None
    train_ids: tuple[int, ...] = ()

    @property
    def feature_dims(self) -> dict[NestedKey, int]:
        """Context features in order, with their sizes: (s, a, r) or (s, a, r, s')."""
        dims: dict[NestedKey, int] = {"observation": self.observation_dim, "action": self.action_dim}
        dims[self.reward_key] = 1
        if self.context_next_observation:
            dims["next", "observation"] = self.observation_dim
        return dims
