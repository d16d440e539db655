"""The batched point robots as one TorchRL environment in pure torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

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


class PointRobotEnv(EnvBase):
    """A point in the plane that starts at the origin and is paid for being near a goal; one task per row.

    Keys (``n`` rows): ``action`` ``[n, 2]`` float32 in ``[-1, 1]``; ``observation`` ``[n, 2]`` float32, the
    position; ``task_id`` ``[n]`` int64; ``reward`` ``[n, 1]`` float32, minus the distance after the move;
    ``sparse_reward`` ``[n, 1]`` float32, only with a ``sparse_rule``; ``done``, ``terminated``, ``truncated``
    ``[n, 1]`` bool. Episodes never terminate, they are truncated at the horizon.

    ``sparse_reward`` is a second entry of the reward spec. TorchRL then drops it from the root like any
    reward, so no policy can read it, and ``RewardSum`` sums it too; the price is that ``env.reward_key``
    (singular), which asks for the only reward, raises: use ``env.reward_keys``.

    Position and step counter live in the environment and not in the tensordict: the counter must not be
    visible to a policy, and TorchRL's automatic resets pass nothing but ``"_reset"``. Nothing in the
    environment is random, so a seed changes nothing; seed torch for random actions.

    Args:
        task_set: tasks of one of the point-robot families.
        task_ids: the task of each row; ids may repeat. None is every task once, in order.
        horizon: steps until truncation. None is the family's.
        sparse_rule: rule of ``sparse_reward``; None leaves the entry out.
        sparse_radius: radius of the sparse reward.
        device: device of the state and of everything that is returned.

    Raises:
        ValueError: if a task id is not in the set, there are no rows, the horizon is not positive, or the
            sparse rule or radius is wrong.

    Example:
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> env = PointRobotEnv(make_task_set("point_robot"), task_ids=[0, 0, 7])
        >>> env.rollout(20, break_when_any_done=False)["next", "reward"].shape
        torch.Size([3, 20, 1])
    """

    batch_locked = True

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
        rows = range(task_set.n_tasks) if task_ids is None else task_ids
        n = len(rows)
        if n == 0:
            raise ValueError("task_ids is empty: give at least one task id, or None for every task.")
        super().__init__(device=torch.device(device), batch_size=[n])
        self.task_set = task_set
        self.horizon = task_set.family.episode_length(horizon)
        if sparse_rule is not None:
            check_sparse_rule(sparse_rule, sparse_radius)
        self.sparse_rule, self.sparse_radius = sparse_rule, sparse_radius
        self._make_specs(n)
        goals, winds = goals_and_winds(task_set)
        state = {
            "_goals": goals.float(),
            "_winds": winds.float(),
            "_task_id": torch.zeros(n, dtype=torch.int64),
            "_goal": torch.zeros(n, 2),
            "_wind": None,
            "_position": torch.zeros(n, 2),
            "_step_count": torch.zeros(n, 1, dtype=torch.int64),
        }
        for name, value in state.items():  # buffers, so that `to` moves them; no checkpoint should hold them
            self.register_buffer(name, None if value is None else value.to(self.device), persistent=False)
        self.set_task(rows)

    def _make_specs(self, n: int) -> None:
        self.observation_spec = Composite(
            observation=Unbounded((n, 2), dtype=torch.float32),
            task_id=Categorical(self.task_set.n_tasks, (n,), dtype=torch.int64),
            shape=[n],
            device=self.device,
        )
        self.action_spec = Bounded(-1.0, 1.0, (n, 2), dtype=torch.float32, device=self.device)
        rewards = {"reward": Unbounded((n, 1), dtype=torch.float32)}
        if self.sparse_rule is not None:
            rewards["sparse_reward"] = Unbounded((n, 1), dtype=torch.float32)
        self.reward_spec = Composite(rewards, shape=[n], device=self.device)
        flags = {
            name: Categorical(2, (n, 1), dtype=torch.bool) for name in ("done", "terminated", "truncated")
        }
        self.done_spec = Composite(flags, shape=[n], device=self.device)

    @property
    def task_ids(self) -> Tensor:
        """The task of each row, int64 ``[n]``."""
        return self._task_id.clone()

    def set_task(self, task_ids: Sequence[int] | Tensor) -> None:
        """Gives every row a task and puts all robots back to the start; call ``reset()`` before stepping on.

        Args:
            task_ids: one id per row; ids may repeat.

        Raises:
            ValueError: if the number of ids is not the number of rows, or an id is not in the task set.
        """
        ids = torch.as_tensor(self.task_set.validate_ids(task_ids), dtype=torch.int64, device=self.device)
        if ids.shape != self.batch_size:
            raise ValueError(
                f"set_task got {len(ids)} task ids for an environment with {self.batch_size[0]} rows; "
                "make another environment to change the number of rows."
            )
        self._task_id = ids
        self._goal = self._goals[ids]
        # Still air is the common case: None saves an addition per step.
        self._wind = self._winds[ids] if self._winds.any() else None
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
        # Done flags left out are filled with False; rows outside the mask keep the caller's values.
        return self._output(observation=self._position.clone(), task_id=self._task_id)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        position = move(self._position, tensordict.get("action"), self._wind)
        active = tensordict.get("_step", None)
        if active is not None:
            active = active.view(-1, 1)
            position = torch.where(active, position, self._position)
        self._position.copy_(position)  # a copy of its own: what the caller does to the output stays outside
        self._step_count.add_(1 if active is None else active)
        truncated = self._step_count >= self.horizon
        reward = dense_reward(position, self._goal)
        values = {
            "observation": position,
            "task_id": self._task_id,
            "reward": reward,
            "done": truncated,
            "terminated": torch.zeros_like(truncated),
            "truncated": truncated.clone(),
        }
        if self.sparse_rule is not None:
            values["sparse_reward"] = sparse_reward(reward, self.sparse_rule, self.sparse_radius)
        return self._output(**values)

    def _output(self, **values: Tensor) -> TensorDict:
        return TensorDict(values, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        """Nothing is random here; the seed is accepted because every environment accepts one."""


def build_point_robot(
    task_set: TaskSet,
    task_ids: Sequence[int] | Tensor | None,
    device: torch.device | str,
    *,
    horizon: int | None = None,
    sparse_rule: SparseRule = "plus_one",
    sparse_radius: float = SPARSE_RADIUS,
) -> PointRobotEnv:
    """The environment of a point-robot family; the sparse options matter to the sparse family only."""
    return PointRobotEnv(
        task_set,
        task_ids,
        horizon=horizon,
        sparse_rule=sparse_rule if pays_sparse_reward(task_set) else None,
        sparse_radius=sparse_radius,
        device=device,
    )
