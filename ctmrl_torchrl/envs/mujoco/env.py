"""The batched MuJoCo robots as one TorchRL environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from ctmrl_torchrl.envs.mujoco.engine import Engine, make_engine
from ctmrl_torchrl.envs.mujoco.models import load_model, task_fields
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.envs.task_sets import TaskSet


class MujocoEnv(EnvBase):
    """A robot per row, all of one family, each with its own task and, where that is the task, its own body.

    Keys (``n`` rows): ``action`` ``[n, actions]`` float32 in ``[-1, 1]``, clipped to it; ``observation``
    ``[n, features]`` float32; ``task_id`` ``[n]`` int64; ``reward`` ``[n, 1]`` float32; ``done``,
    ``terminated`` (fallen), ``truncated`` (horizon) ``[n, 1]`` bool; ``unstable`` ``[n, 1]`` bool, true where
    the simulation broke down in this step: the row is truncated, keeps its last observation, is paid nothing,
    and the transition should not be learnt from.

    Initial states are random. They follow ``set_seed``; without a seed they follow torch's global generator.

    Args:
        task_set: tasks of one of the MuJoCo families.
        task_ids: the task of each row; ids may repeat. None is every task once, in order.
        horizon: steps until truncation. None is the family's.
        threads: of the simulator. More than one helps where cores are free, and must not be forked.
        recompute_constants: whether what MuJoCo derives from masses and inertias (the softness of contacts
            and limits) is computed anew for each body. The published tasks keep the nominal values.
        device: of everything that is returned; the simulation runs on the CPU.

    Attributes:
        unstable_count (int): breakdowns since construction.

    Raises:
        ValueError: if a task id is not in the set, there are no rows, or the horizon is not positive.

    Example:
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> env = MujocoEnv(make_task_set("half_cheetah_vel"), task_ids=[0, 0, 7])
        >>> env.rollout(4)["next", "observation"].shape
        torch.Size([3, 4, 20])
    """

    batch_locked = True

    def __init__(
        self,
        task_set: TaskSet,
        task_ids: Sequence[int] | Tensor | None = None,
        *,
        horizon: int | None = None,
        threads: int = 1,
        recompute_constants: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        rows = range(task_set.n_tasks) if task_ids is None else task_ids
        n = len(rows)
        if n == 0:
            raise ValueError("task_ids is empty: give at least one task id, or None for every task.")
        super().__init__(device=torch.device(device), batch_size=[n])
        self.task_set = task_set
        self.horizon = task_set.family.episode_length(horizon)
        self.robot = ROBOTS[task_set.name]
        model = load_model(self.robot)
        self._nominal = np.array(model.qpos0), model.nv
        self.engine: Engine = make_engine(model, n, self.robot.frame_skip, threads, recompute_constants)
        self._generator: np.random.Generator | None = None
        self._step_count = np.zeros(n, dtype=np.int64)
        self.unstable_count = 0
        self._make_specs(n)
        self.set_task(rows)

    def _make_specs(self, n: int) -> None:
        family = self.task_set.family
        self.observation_spec = Composite(
            observation=Unbounded((n, family.observation_dim), dtype=torch.float32),
            task_id=Categorical(self.task_set.n_tasks, (n,), dtype=torch.int64),
            unstable=Categorical(2, (n, 1), dtype=torch.bool),
            shape=[n],
            device=self.device,
        )
        self.action_spec = Bounded(-1.0, 1.0, (n, family.action_dim), dtype=torch.float32, device=self.device)
        self.reward_spec = Unbounded((n, 1), dtype=torch.float32, device=self.device)
        flags = {
            name: Categorical(2, (n, 1), dtype=torch.bool) for name in ("done", "terminated", "truncated")
        }
        self.done_spec = Composite(flags, shape=[n], device=self.device)

    @property
    def task_ids(self) -> Tensor:
        """The task of each row, int64 ``[n]``."""
        return self._task_id.to(self.device, copy=True)

    @property
    def task_parameters(self) -> Tensor:
        """What the tasks of the rows are, float64 ``[n, parameters]``: for analysis; no policy reads it."""
        return self.task_set.parameters[self._task_id]

    def set_task(self, task_ids: Sequence[int] | Tensor) -> None:
        """Gives every row a task and puts all robots back to a start; call ``reset()`` before stepping on.

        Args:
            task_ids: one id per row; ids may repeat.

        Raises:
            ValueError: if the number of ids is not the number of rows, or an id is not in the task set.
        """
        ids = self.task_set.validate_ids(task_ids)
        if len(ids) != self.batch_size[0]:
            raise ValueError(
                f"set_task got {len(ids)} task ids for an environment with {self.batch_size[0]} rows; "
                "make another environment to change the number of rows."
            )
        self._task_id = torch.tensor(ids, dtype=torch.int64)
        self._parameters = self.task_parameters.numpy()
        if self.robot.task_is_body:
            self.engine.set_fields(task_fields(self.engine.model, self._parameters))
        self.engine.set_state(np.arange(len(ids)), *self._initial_state(len(ids)))
        self._step_count[:] = 0

    def _initial_state(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        if self._generator is None:
            self._generator = np.random.default_rng(int(torch.randint(2**62, ())))
        return self.robot.initial_state(*self._nominal, rows, self._generator)

    def _observe(self) -> np.ndarray:
        return self.robot.observation(self.engine.qpos, self.engine.qvel)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        n = self.batch_size[0]
        rows = np.arange(n) if mask is None else mask.view(-1).nonzero().view(-1).cpu().numpy()
        if rows.size:
            self.engine.set_state(rows, *self._initial_state(rows.size))
        self._step_count[rows] = 0
        return self._output(observation=self._observe(), unstable=np.zeros((n, 1), dtype=bool))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict.get("action").double().numpy(force=True).clip(-1.0, 1.0)
        active = tensordict.get("_step", None)
        moving = slice(None) if active is None else active.view(-1).cpu().numpy()
        rows = None if active is None else moving.nonzero()[0]
        before, speed = self.engine.qpos.copy(), self.engine.qvel.copy()
        unstable = self.engine.step(action, rows)
        after, velocity = self.engine.qpos, self.engine.qvel
        self._step_count[moving] += 1
        fallen = self.robot.fallen(after, velocity)
        truncated = self._step_count >= self.horizon
        reward = self.robot.reward(before, after, action, self._parameters)
        observation = self.robot.observation(after, velocity)
        if unstable.any():  # what MuJoCo has put in the place of the broken state is not part of the task
            self.unstable_count += int(unstable.sum())
            observation = np.where(unstable[:, None], self.robot.observation(before, speed), observation)
            reward = np.where(unstable, 0.0, reward)
            fallen, truncated = fallen & ~unstable, truncated | unstable
        return self._output(
            observation=observation,
            unstable=unstable[:, None],
            reward=reward[:, None],
            done=(fallen | truncated)[:, None],
            terminated=fallen[:, None],
            truncated=truncated[:, None],
        )

    def _output(self, **values: np.ndarray) -> TensorDict:
        # In single precision before they are tensors, and on a named device: TorchRL's step would move them.
        out = {
            name: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value)
            for name, value in values.items()
        }
        out["task_id"] = self._task_id
        return TensorDict(out, batch_size=self.batch_size, device=self.device)

    def _set_seed(self, seed: int | None) -> None:
        self._generator = None if seed is None else np.random.default_rng(seed)


def build_mujoco(
    task_set: TaskSet,
    task_ids: Sequence[int] | Tensor | None,
    device: torch.device | str,
    *,
    horizon: int | None = None,
    threads: int = 1,
    recompute_constants: bool = False,
) -> MujocoEnv:
    """The environment of a MuJoCo family."""
    options = {"horizon": horizon, "threads": threads, "recompute_constants": recompute_constants}
    return MujocoEnv(task_set, task_ids, device=device, **options)
