"""The batched environment of a custom family, based on gymnasium's vector environments."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from ctmrl_torchrl.envs.batched import BatchedTaskEnv, SeededStarts, to_tensors
from ctmrl_torchrl.envs.guests.simulation import GuestDefinition, Task, TaskSimulation, tasks_of
from ctmrl_torchrl.envs.task_sets import TaskSet

# columns after the features in the output of a row
_TERMINATED, _TRUNCATED, _EXTRA = range(3)
# states of a row
_UNSTARTED, _RUNNING, _ENDED = range(3)


class GuestRow(gymnasium.Env[np.ndarray, np.ndarray]):
    """One task as a member of a vector environment, from which the ends of episodes are hidden.

    Vector environments step all members and reset those whose episode has ended. TorchRL controls stepping and
    resets itself and needs the last observation of an episode. Ends are therefore returned as part of the
    observation ``[features + 3]`` (after the features: terminated, truncated, second reward), and a row with a
    NaN action does not move.

    Args:
        definition: description of the environment.
        task: the task of this row.
    """

    metadata = {"render_modes": []}

    def __init__(self, definition: GuestDefinition, task: Task) -> None:
        self._simulation = TaskSimulation(definition, task)
        size = definition.features
        self._shown = np.zeros(size + 3, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size + 3,), np.float32)
        self.action_space = gymnasium.spaces.Box(-np.inf, np.inf, (definition.action_low.size,), np.float32)

    @property
    def task(self) -> Task:
        """The task of this row; setting another task creates a new environment."""
        return self._simulation.task

    @task.setter
    def task(self, task: Task) -> None:
        if task != self._simulation.task:
            definition = self._simulation.definition
            self._simulation.close()
            self._simulation = TaskSimulation(definition, task)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode."""
        features = self._simulation.reset(seed)
        self._shown = np.concatenate((features, np.zeros(3, dtype=np.float32)))
        return self._shown, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action; a NaN action leaves the row unchanged."""
        if np.isnan(action[0]):
            return self._shown, 0.0, False, False, {}
        result = self._simulation.step(action)
        ends = (result.terminated, result.truncated, result.extra_reward)
        self._shown = np.concatenate((result.features, np.array(ends, dtype=np.float32)))
        return self._shown, result.reward, False, False, {}

    def close(self) -> None:
        """Close the user's environment."""
        self._simulation.close()


class GuestEnv(SeededStarts, BatchedTaskEnv):
    """A batched environment with one of the user's environments per row, each with its own task.

    Keys (``n`` rows): ``action`` ``[n, actions]`` float32 in ``[-1, 1]``, clipped and scaled to the
    environment's bounds; ``observation`` ``[n, features]`` float32, flattened; ``task_id`` ``[n]`` int64;
    ``reward`` (and the family's second reward, if it reports one) ``[n, 1]`` float32; ``done``,
    ``terminated`` (the episode ended in a terminal state), ``truncated`` (a time limit or the horizon ended it)
    ``[n, 1]`` bool.

    A row whose episode has ended does not move until it is reset: its last observation and its flags are
    repeated, and its reward is 0.

    Every episode is seeded. The seeds depend on ``set_seed``, or otherwise on torch's global generator.
    A pickled or copied environment keeps the tasks and the generator of the original, but must be reset first,
    because gymnasium cannot copy the state of a simulation.

    Args:
        definition: description of the user's environment.
        task_set: tasks of the family.
        task_ids: the task of each row; ids may repeat. None means every task once, in order.
        horizon: steps until truncation. None means the family's.
        asynchronous: whether every row has its own process, which is faster if a step takes longer than a
            millisecond and cores are free. None means the family's setting.
        device: device of the returned tensors; the simulation runs on the CPU.

    Raises:
        ValueError: if a task id is not in the set, there are no rows, or the horizon is not positive or
            exceeds the environment's time limit; raised by ``step`` if an action is not finite.
        TaskSimulationError: if a user's environment fails or returns values that are not finite.
    """

    def __init__(
        self,
        definition: GuestDefinition,
        task_set: TaskSet,
        task_ids: Sequence[int] | Tensor | None = None,
        *,
        horizon: int | None = None,
        asynchronous: bool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        definition.check_horizon(horizon)
        rewards = ["reward", *([definition.extra_reward] if definition.extra_reward else [])]
        super().__init__(task_set, task_ids, horizon=horizon, rewards=rewards, device=device)
        self.definition = definition
        self.asynchronous = definition.asynchronous if asynchronous is None else asynchronous
        self._step_count = np.zeros(self.batch_size[0], dtype=np.int64)
        self._state = np.full(self.batch_size[0], _UNSTARTED)
        self._vector: VectorEnv | None = self._make_vector()

    def _tasks(self) -> list[Task]:
        return tasks_of(self.task_set, self._task_id.tolist())

    def _make_vector(self) -> VectorEnv:
        rows = [partial(GuestRow, self.definition, task) for task in self._tasks()]
        options: dict[str, Any] = {"copy": False, "autoreset_mode": AutoresetMode.DISABLED}
        if self.asynchronous:
            # Forking is safe, because the rows do not use torch; spawned processes would each import it.
            forks = "fork" in multiprocessing.get_all_start_methods()
            vector: VectorEnv = AsyncVectorEnv(rows, context="fork" if forks else None, **options)
        else:
            vector = SyncVectorEnv(rows, **options)
        size = self.definition.features
        self._shown = np.zeros((len(rows), size + 3), dtype=np.float32)
        return vector

    def _start_tasks(self) -> None:
        self._state[:] = _UNSTARTED
        self._step_count[:] = 0
        try:
            cast(Any, self._open_vector()).set_attr("task", self._tasks())
        except Exception:  # some rows already have their new task
            self._vector = None
            raise

    def _open_vector(self) -> VectorEnv:
        if self._vector is None:
            raise RuntimeError(
                "This environment is closed, or a task could not be created; create a new one."
            )
        return self._vector

    def _seeds(self, rows: np.ndarray) -> list[int | None]:
        """A fresh seed for each row of the mask."""
        drawn = iter(self._numbers().integers(2**31, size=int(rows.sum())).tolist())
        return [next(drawn) if chosen else None for chosen in rows]

    def _reset(self, tensordict: TensorDictBase | None = None, **kwargs: Any) -> TensorDict:
        mask = None if tensordict is None else tensordict.get("_reset", None)
        n = self.batch_size[0]
        rows = np.ones(n, dtype=bool) if mask is None else mask.view(-1).cpu().numpy()
        if rows.any():
            vector: Any = self._open_vector()
            shown, _ = vector.reset(seed=self._seeds(rows), options={"reset_mask": rows.copy()})
            self._shown[rows] = shown[rows]
            self._step_count[rows] = 0
            self._state[rows] = _RUNNING
        features = self._shown[:, : self.definition.features].copy()
        return self._output(**to_tensors({"observation": features}))

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        moving = self._moving_rows(tensordict.get("_step", None))
        action = tensordict.get("action").double().numpy(force=True).copy()
        broken = moving & ~np.isfinite(action).all(-1)
        if broken.any():
            row = int(broken.nonzero()[0][0])
            raise ValueError(
                f"The action of row {row}, {self.task_set.describe(int(self._task_id[row]))}, must be "
                f"finite, got {action[row].tolist()}."
            )
        action[~moving] = np.nan
        shown, reward = self._open_vector().step(action.astype(np.float32))[:2]
        self._shown = np.array(shown)
        self._step_count += moving
        features, ends = np.split(self._shown, [self.definition.features], axis=-1)
        terminated = ends[:, _TERMINATED] > 0
        truncated = (ends[:, _TRUNCATED] > 0) | (self._step_count >= self.horizon)
        done = terminated | truncated
        self._state[moving & done] = _ENDED
        values = {
            "observation": features.copy(),
            "reward": reward[:, None],
            "done": done[:, None],
            "terminated": terminated[:, None],
            "truncated": truncated[:, None],
        }
        if self.definition.extra_reward is not None:
            values[self.definition.extra_reward] = np.where(moving, ends[:, _EXTRA], np.float32(0.0))[:, None]
        return self._output(**to_tensors(values))

    def _moving_rows(self, active: Tensor | None) -> np.ndarray:
        asked = np.ones(self.batch_size[0], dtype=bool) if active is None else active.view(-1).cpu().numpy()
        unstarted = (asked & (self._state == _UNSTARTED)).nonzero()[0]
        if unstarted.size:
            raise RuntimeError(
                f"Rows {unstarted[:5].tolist()} have not been reset (a new environment, new tasks, or a "
                "copy); call env.reset() before the first step."
            )
        return asked & (self._state == _RUNNING)

    def close(self, **kwargs: Any) -> None:
        """Close the environments of all rows."""
        super().close(**kwargs)
        if self._vector is not None:
            self._vector.close()
            self._vector = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_vector": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._state = np.full_like(self._state, _UNSTARTED)
        self._step_count = np.zeros_like(self._step_count)
        self._vector = self._make_vector()


def build_guest(
    definition: GuestDefinition,
    task_set: TaskSet,
    task_ids: Sequence[int] | Tensor | None,
    device: torch.device | str,
    *,
    horizon: int | None = None,
    asynchronous: bool | None = None,
) -> GuestEnv:
    """Create the environment of a custom family."""
    return GuestEnv(definition, task_set, task_ids, horizon=horizon, asynchronous=asynchronous, device=device)
