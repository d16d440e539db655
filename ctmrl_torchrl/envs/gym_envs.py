"""The point robots as single gymnasium environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch

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
from ctmrl_torchrl.envs.task_sets import make_task_set


def checked_action(action: np.ndarray, space: Any) -> np.ndarray:
    """Convert the action to the dtype of the space, without clipping.

    Raises:
        ValueError: if its shape differs from the space's, or a number is not finite.
    """
    given = np.asarray(action, dtype=space.dtype)
    if given.shape != space.shape or not np.isfinite(given).all():
        raise ValueError(
            f"An action must be finite numbers of shape {list(space.shape)} in [-1, 1], got {action!r}."
        )
    return given


class PointRobotGymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A point robot with one task: one row of ``PointRobotEnv`` as a gymnasium environment.

    The observation is the position, float32 ``[2]``; actions are clipped to ``[-1, 1]^2``. The reward is the
    reported reward of the family. For the sparse family this is the sparse reward, and
    ``info["dense_reward"]`` contains the dense one. The environment truncates at the horizon, so it is
    registered without a time limit.

    Args:
        family: name of a point-robot family.
        task: id of the task.
        preset: task set of the id.
        horizon: steps until truncation. None means the family's horizon.
        sparse_rule: rule of the sparse reward; only the sparse family uses it.
        sparse_radius: radius of the sparse reward.

    Raises:
        ValueError: if the family, preset, task or sparse rule is unknown, or the horizon is not positive;
            ``step``, if the action has the wrong size or is not finite.

    Example:
        >>> import ctmrl_torchrl.envs
        >>> env = gymnasium.make("ctmrl/PointRobot-v0", task=3)
        >>> env.reset(seed=0)[0].tolist()
        [0.0, 0.0]
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        family: str = "point_robot",
        task: int = 0,
        preset: str = "repo",
        *,
        horizon: int | None = None,
        sparse_rule: SparseRule = "plus_one",
        sparse_radius: float = SPARSE_RADIUS,
    ) -> None:
        tasks = make_task_set(family, preset)
        (self.task,) = tasks.validate_ids([task])
        self.horizon = tasks.family.episode_length(horizon)
        check_sparse_rule(sparse_rule, sparse_radius)
        self.sparse_rule: SparseRule = sparse_rule
        self.sparse_radius = sparse_radius
        self.pays_sparse_reward = pays_sparse_reward(tasks)
        goals, winds = goals_and_winds(tasks)
        self._goal = goals[self.task].float()
        self._wind = winds[self.task].float() if winds.any() else None
        self._position, self._step_count = torch.zeros(2), 0
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Move the robot back to the origin; see ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        self._position, self._step_count = torch.zeros(2), 0
        return self._position.numpy().copy(), {"task_id": self.task}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the robot; see ``gymnasium.Env.step``."""
        checked = torch.from_numpy(checked_action(action, self.action_space))
        self._position = move(self._position, checked, self._wind)
        self._step_count += 1
        dense = dense_reward(self._position, self._goal)
        info: dict[str, Any] = {"task_id": self.task}
        reward = dense
        if self.pays_sparse_reward:
            reward = sparse_reward(dense, self.sparse_rule, self.sparse_radius)
            info["dense_reward"] = dense.item()
        truncated = self._step_count >= self.horizon
        return self._position.numpy().copy(), reward.item(), False, truncated, info
