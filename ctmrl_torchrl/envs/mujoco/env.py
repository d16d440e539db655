"""The batched MuJoCo robots as one TorchRL environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from ctmrl_torchrl.envs.batched import BatchedTaskEnv, SeededStarts, to_tensors
from ctmrl_torchrl.envs.breakdowns import BreakdownCounts
from ctmrl_torchrl.envs.mujoco.engine import Engine, make_engine
from ctmrl_torchrl.envs.mujoco.models import load_model, task_fields
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.envs.task_sets import TaskSet


class MujocoEnv(SeededStarts, BatchedTaskEnv):
    """Robots of one family, one per row, each with its own task and, in some families, its own body.

    Keys (``n`` rows): ``action`` ``[n, actions]`` float32 in ``[-1, 1]``, clipped to it; ``observation``
    ``[n, features]`` float32; ``task_id`` ``[n]`` int64; ``reward`` ``[n, 1]`` float32; ``done``,
    ``terminated`` (fallen), ``truncated`` (horizon) ``[n, 1]`` bool; ``unstable`` ``[n, 1]`` bool.

    ``unstable`` is true if the simulation became unstable in this step. The row is then truncated, its last
    observation is repeated, its reward is 0, and the transition must not be used for training.
    ``breakdowns`` counts these cases by task.

    Initial states are random. ``set_seed`` seeds them; without a seed they use torch's global generator.

    Args:
        task_set: tasks of one of the MuJoCo families.
        task_ids: the task of each row; ids may repeat. None means every task once, in order.
        horizon: steps until truncation. None means the family's horizon.
        threads: number of simulator threads. More than one is faster on idle cores, but the environment must
            then not be forked.
        recompute_constants: whether to recompute the constants that MuJoCo derives from masses and inertias
            (the softness of contacts and limits) for each body. The published tasks keep the nominal values.
        device: device of all outputs; the simulation runs on the CPU.

    Attributes:
        breakdowns (BreakdownCounts): simulations that became unstable since construction, by task.

    Raises:
        ValueError: if a task id is not in the set, there are no rows, or the horizon is not positive.

    Example:
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> env = MujocoEnv(make_task_set("half_cheetah_vel"), task_ids=[0, 0, 7])
        >>> env.rollout(4)["next", "observation"].shape
        torch.Size([3, 4, 20])
    """

    writes_specs = True

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
        super().__init__(task_set, task_ids, horizon=horizon, flags=("unstable",), device=device)
        self.robot = ROBOTS[task_set.name]
        model, n = load_model(self.robot), self.batch_size[0]
        self._nominal = np.array(model.qpos0), model.nv
        self.engine: Engine = make_engine(model, n, self.robot.frame_skip, threads, recompute_constants)
        self._step_count = np.zeros(n, dtype=np.int64)
        self.breakdowns = BreakdownCounts(task_set, self._task_id.cpu().numpy())
        self._start_tasks()

    @property
    def unstable_count(self) -> int:
        """Unstable simulations of all tasks since construction."""
        return int(self.breakdowns.counts.sum())

    def _start_tasks(self) -> None:
        self.breakdowns.follow(self._task_id.cpu().numpy())
        self._row_parameters = self.task_parameters.numpy()
        if self.robot.task_is_body:
            self.engine.set_fields(task_fields(self.engine.model, self._row_parameters))
        n = self.batch_size[0]
        self.engine.set_state(np.arange(n), *self._initial_state(n))
        self._step_count[:] = 0

    def _initial_state(self, rows: int) -> tuple[np.ndarray, np.ndarray]:
        return self.robot.initial_state(*self._nominal, rows, self._numbers())

    def _observe(self) -> np.ndarray:
        return self.robot.observation(self.engine.qpos, self.engine.qvel)

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        n = self.batch_size[0]
        rows = np.arange(n) if mask is None else mask.view(-1).nonzero().view(-1).cpu().numpy()
        if rows.size:
            self.engine.set_state(rows, *self._initial_state(rows.size))
        self._step_count[rows] = 0
        values = {"observation": self._observe(), "unstable": np.zeros((n, 1), dtype=bool)}
        return self._output(**to_tensors(values))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        action = tensordict.get("action").double().numpy(force=True).clip(-1.0, 1.0)
        active = tensordict.get("_step", None)
        moving: Any = slice(None) if active is None else active.view(-1).cpu().numpy()
        rows = None if active is None else moving.nonzero()[0]
        before, speed = self.engine.qpos.copy(), self.engine.qvel.copy()
        unstable = self.engine.step(action, rows)
        after, velocity = self.engine.qpos, self.engine.qvel
        self._step_count[moving] += 1
        fallen = self.robot.fallen(after, velocity)
        truncated = self._step_count >= self.horizon
        reward = self.robot.reward(before, after, action, self._row_parameters)
        observation = self.robot.observation(after, velocity)
        if unstable.any():  # MuJoCo has reset the unstable state to one outside the task
            observation = np.where(unstable[:, None], self.robot.observation(before, speed), observation)
            reward = np.where(unstable, 0.0, reward)
            fallen, truncated = fallen & ~unstable, truncated | unstable
        done = fallen | truncated
        self.breakdowns.record(unstable, done)
        values = {
            "observation": observation,
            "unstable": unstable[:, None],
            "reward": reward[:, None],
            "done": done[:, None],
            "terminated": fallen[:, None],
            "truncated": truncated[:, None],
        }
        return self._output(**to_tensors(values))


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
