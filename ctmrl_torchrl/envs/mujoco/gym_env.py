"""A MuJoCo robot with one fixed task as a gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from ctmrl_torchrl.envs.gym_envs import checked_action
from ctmrl_torchrl.envs.mujoco.engine import make_engine
from ctmrl_torchrl.envs.mujoco.models import load_model, task_fields
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.envs.task_sets import make_task_set


class MujocoGymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A robot with one task: one row of ``MujocoEnv``, with the same formulas.

    Observations are float32; actions are clipped to ``[-1, 1]``. The environment truncates at the horizon, so it
    is registered without a time limit. An episode whose simulation becomes unstable is also truncated, with
    ``info["unstable"]`` true.

    Args:
        family: name of a MuJoCo family.
        task: id of the task.
        preset: task set of the id.
        horizon: steps until truncation. None means the family's horizon.
        recompute_constants: see ``MujocoEnv``.

    Raises:
        ValueError: if the family, preset or task is unknown, or the horizon is not positive;
            ``step``, if the action has the wrong size or is not finite.

    Example:
        >>> import ctmrl_torchrl.envs
        >>> env = gymnasium.make("ctmrl/HalfCheetahVel-v0", task=3)
        >>> env.reset(seed=0)[0].shape
        (20,)
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        family: str = "half_cheetah_vel",
        task: int = 0,
        preset: str = "repo",
        *,
        horizon: int | None = None,
        recompute_constants: bool = False,
    ) -> None:
        tasks = make_task_set(family, preset)
        (self.task,) = tasks.validate_ids([task])
        self.horizon = tasks.family.episode_length(horizon)
        self.robot = ROBOTS[family]
        model = load_model(self.robot)
        self._nominal = np.array(model.qpos0), model.nv
        self.engine = make_engine(model, 1, self.robot.frame_skip, 1, recompute_constants)
        self._row_parameters = tasks.parameters[[self.task]].numpy()
        if self.robot.task_is_body:
            self.engine.set_fields(task_fields(model, self._row_parameters))
        self._step_count = 0
        shape = (tasks.family.observation_dim,)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, shape, np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (tasks.family.action_dim,), np.float32)

    def _observe(self) -> np.ndarray:
        return self.robot.observation(self.engine.qpos, self.engine.qvel)[0].astype(np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset the robot to a random initial state; see ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        self.engine.set_state(np.arange(1), *self.robot.initial_state(*self._nominal, 1, self.np_random))
        self._step_count = 0
        return self._observe(), {"task_id": self.task}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the robot for one control step; see ``gymnasium.Env.step``."""
        clipped = np.clip(checked_action(action, self.action_space).astype(np.float64), -1.0, 1.0)[None]
        before, seen = self.engine.qpos.copy(), self._observe()
        unstable = bool(self.engine.step(clipped)[0])
        self._step_count += 1
        truncated = unstable or self._step_count >= self.horizon
        info = {"task_id": self.task, "unstable": unstable}
        if unstable:
            return seen, 0.0, False, True, info
        reward = self.robot.reward(before, self.engine.qpos, clipped, self._row_parameters)
        fallen = self.robot.fallen(self.engine.qpos, self.engine.qvel)
        return self._observe(), float(reward[0]), bool(fallen[0]), truncated, info
