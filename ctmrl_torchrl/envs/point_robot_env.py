"""The batched point robots as one TorchRL environment, implemented in torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from ctmrl_torchrl.envs.batched import BatchedTaskEnv, SeededStarts
from ctmrl_torchrl.envs.point_robot import (
    SPARSE_RADIUS,
    SparseRule,
    check_sparse_rule,
    dense_reward,
    goals_and_winds,
    move,
    pays_sparse_reward,
    sparse_reward,
)
from ctmrl_torchrl.envs.task_sets import TaskSet


class PointRobotEnv(SeededStarts, BatchedTaskEnv):
    """Points in the plane that start at the origin and are rewarded for approaching a goal; one task per row.

    Keys (``n`` rows): ``action`` ``[n, 2]`` float32 in ``[-1, 1]``; ``observation`` ``[n, 2]`` float32, the
    position; ``task_id`` ``[n]`` int64; ``reward`` ``[n, 1]`` float32, minus the distance after the move;
    ``sparse_reward`` ``[n, 1]`` float32, only with a ``sparse_rule``; ``done``, ``terminated``, ``truncated``
    ``[n, 1]`` bool. Episodes never terminate; they are truncated at the horizon.

    ``sparse_reward`` is a second entry of the reward spec. TorchRL therefore removes it from the root like any
    reward, so that no policy can read it, and ``RewardSum`` sums it too. However, ``env.reward_key`` expects a
    single reward and raises an error; use ``env.reward_keys``.

    Position and step counter are kept in the environment instead of the TensorDict: a policy must not read the
    counter, and TorchRL's automatic resets only pass ``"_reset"``. The environment is deterministic, so a seed
    has no effect; seed torch for random actions.

    Args:
        task_set: tasks of one of the point-robot families.
        task_ids: the task of each row; ids may repeat. None means every task once, in order.
        horizon: steps until truncation. None means the family's horizon.
        sparse_rule: rule of ``sparse_reward``; None omits the entry.
        sparse_radius: radius of the sparse reward.
        device: device of the state and of all outputs.

    Raises:
        ValueError: if a task id is not in the set, there are no rows, the horizon is not positive, or the
            sparse rule or radius is wrong.

    Example:
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> env = PointRobotEnv(make_task_set("point_robot"), task_ids=[0, 0, 7])
        >>> env.rollout(20, break_when_any_done=False)["next", "reward"].shape
        torch.Size([3, 20, 1])
    """

    writes_specs = True

    _goals: Tensor
    _winds: Tensor
    _goal: Tensor
    _wind: Tensor | None
    _position: Tensor
    _step_count: Tensor

    def __init__(
        self,
        task_set: TaskSet,
        task_ids: Sequence[int] | Tensor | None = None,
        *,
        horizon: int | None = None,
        sparse_rule: SparseRule | None = None,
        sparse_radius: float = SPARSE_RADIUS,
        device: torch.device | str = "cpu",
    ) -> None:
        if sparse_rule is not None:
            check_sparse_rule(sparse_rule, sparse_radius)
        rewards = ("reward",) if sparse_rule is None else ("reward", "sparse_reward")
        super().__init__(task_set, task_ids, horizon=horizon, rewards=rewards, device=device)
        self.sparse_rule: SparseRule | None = sparse_rule
        self.sparse_radius = sparse_radius
        n = self.batch_size[0]
        goals, winds = goals_and_winds(task_set)
        state = {
            "_goals": goals.float(),
            "_winds": winds.float(),
            "_goal": torch.zeros(n, 2),
            "_wind": None,
            "_position": torch.zeros(n, 2),
            "_step_count": torch.zeros(n, 1, dtype=torch.int64),
        }
        for name, value in state.items():
            self.register_buffer(name, None if value is None else value.to(self.device), persistent=False)
        self._start_tasks()

    def _start_tasks(self) -> None:
        self._goal = self._goals[self._task_id]
        self._wind = self._winds[self._task_id] if self._winds.any() else None
        self._position.zero_()
        self._step_count.zero_()

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        if mask is None:
            self._position.zero_()
            self._step_count.zero_()
        else:
            mask = mask.view(-1, 1)
            self._position.masked_fill_(mask, 0.0)
            self._step_count.masked_fill_(mask, 0)
        # Missing done flags are filled with False; rows outside the mask keep the caller's values.
        return self._output(observation=self._position.clone())

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        position = move(self._position, tensordict.get("action"), self._wind)
        active = tensordict.get("_step", None)
        if active is not None:
            active = active.view(-1, 1)
            position = torch.where(active, position, self._position)
        self._position.copy_(position)  # a copy, so that changes to the output do not change the state
        self._step_count.add_(1 if active is None else active)
        truncated = self._step_count >= self.horizon
        reward = dense_reward(position, self._goal)
        values = {
            "observation": position,
            "reward": reward,
            "done": truncated,
            "terminated": torch.zeros_like(truncated),
            "truncated": truncated.clone(),
        }
        if self.sparse_rule is not None:
            values["sparse_reward"] = sparse_reward(reward, self.sparse_rule, self.sparse_radius)
        return self._output(**values)

    def _set_seed(self, seed: int | None) -> None:
        """Accept a seed, although the environment is deterministic."""


def build_point_robot(
    task_set: TaskSet,
    task_ids: Sequence[int] | Tensor | None,
    device: torch.device | str,
    *,
    horizon: int | None = None,
    sparse_rule: SparseRule = "plus_one",
    sparse_radius: float = SPARSE_RADIUS,
) -> PointRobotEnv:
    """The environment of a point-robot family; the sparse options affect only the sparse family."""
    return PointRobotEnv(
        task_set,
        task_ids,
        horizon=horizon,
        sparse_rule=sparse_rule if pays_sparse_reward(task_set) else None,
        sparse_radius=sparse_radius,
        device=device,
    )
