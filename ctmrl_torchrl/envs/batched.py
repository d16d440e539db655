"""The base class of batched environments, in which each row has a task."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

from ctmrl_torchrl.envs.stacking import stack_steps
from ctmrl_torchrl.envs.task_sets import TaskSet

_ENDS = ("done", "terminated", "truncated")


class SeededStarts:
    """For environments whose episodes depend on tasks, actions and one NumPy generator alone.

    With the generator's state, another copy of the environment plays the same episodes, also in another process.
    A subclass with further randomness, or with a memory of earlier episodes, extends both methods.
    """

    _generator: np.random.Generator | None = None

    def random_state(self) -> Any:
        """The state of the generator; None before a seed."""
        return None if self._generator is None else self._generator.bit_generator.state

    def set_random_state(self, state: Any) -> None:
        """Continue with the random numbers of another environment's :meth:`random_state`."""
        self._generator = None
        if state is not None:
            self._generator = np.random.default_rng()
            self._generator.bit_generator.state = state

    def _set_seed(self, seed: int | None) -> None:
        self._generator = None if seed is None else np.random.default_rng(seed)

    def _numbers(self) -> np.random.Generator:
        """The generator; without a seed, torch's global generator seeds it."""
        if self._generator is None:
            self._generator = np.random.default_rng(int(torch.randint(2**62, ())))
        return self._generator


class BatchedTaskEnv(EnvBase):
    """Base class of batched environments of one family, in which each row has its own task.

    Keys (``n`` rows): ``action`` ``[n, actions]`` float32 in ``[-1, 1]``; ``observation`` ``[n, features]``
    float32; ``task_id`` ``[n]`` int64; every reward ``[n, 1]`` float32; ``done``, ``terminated``,
    ``truncated`` and every additional flag ``[n, 1]`` bool.

    A subclass implements ``_reset``, ``_step`` and ``_set_seed`` as for any ``EnvBase``, and
    :meth:`_start_tasks`, and calls the latter at the end of its constructor.

    Args:
        task_set: the tasks.
        task_ids: the task of each row; ids may repeat. None means every task once, in order.
        horizon: steps until truncation. None means the family's horizon.
        rewards: names of the reward entries.
        flags: names of additional boolean entries of the observation.
        device: device of all outputs.

    Attributes:
        task_set (TaskSet): the tasks.
        horizon (int): steps until truncation.

    Raises:
        ValueError: if a task id is not in the set, there are no rows, or the horizon is not positive.
    """

    #: whether ``_reset`` and ``_step`` write every entry with the shape and dtype of its spec, every reward and
    #: end among them in ``_step``, so that steps are not checked; ``check_env_specs`` verifies it
    writes_specs: ClassVar[bool] = False

    batch_locked = True  # pyright: ignore[reportAssignmentType] (a property of EnvBase, set so in TorchRL's docs)

    def __init__(
        self,
        task_set: TaskSet,
        task_ids: Sequence[int] | Tensor | None = None,
        *,
        horizon: int | None = None,
        rewards: Sequence[str] = ("reward",),
        flags: Sequence[str] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        ids = task_set.validate_ids(range(task_set.n_tasks) if task_ids is None else task_ids)
        if not ids:
            raise ValueError("task_ids is empty: give at least one task id, or None for every task.")
        super().__init__(device=torch.device(device), batch_size=torch.Size([len(ids)]))
        self.task_set = task_set
        self.horizon = task_set.family.episode_length(horizon)
        self._make_specs(len(ids), rewards, flags)
        self._drawn: tuple[Any, ...] = (None,)
        # State is kept in non-persistent buffers, so that `to` moves it and checkpoints exclude it.
        self.register_buffer("_task_id", torch.tensor(ids, device=self.device), persistent=False)

    def _make_specs(self, n: int, rewards: Sequence[str], flags: Sequence[str]) -> None:
        family = self.task_set.family
        rows, column = torch.Size([n]), torch.Size([n, 1])
        on = self.device
        self.observation_spec = Composite(
            {
                "observation": Unbounded(torch.Size([n, family.observation_dim]), on, torch.float32),
                "task_id": Categorical(self.task_set.n_tasks, rows, on, torch.int64),
                **{name: Categorical(2, column, on, torch.bool) for name in flags},
            },
            shape=rows,
            device=on,
        )
        actions = torch.Size([n, family.action_dim])
        self.action_spec = Bounded(-1.0, 1.0, actions, on, torch.float32)
        self.reward_spec = Composite(
            {name: Unbounded(column, on, torch.float32) for name in rewards}, shape=rows, device=on
        )
        self.done_spec = Composite(
            {name: Categorical(2, column, on, torch.bool) for name in _ENDS}, shape=rows, device=on
        )

    @property
    def task_ids(self) -> Tensor:
        """The task of each row, int64 ``[n]``."""
        return self._task_id.clone()

    @property
    def task_parameters(self) -> Tensor:
        """The parameters of each row's task, float64 ``[n, parameters]``, for analysis only."""
        return self.task_set.parameters[self._task_id.cpu()]

    def set_task(self, task_ids: Sequence[int] | Tensor) -> None:
        """Assign a task to every row and end its episode; call ``reset()`` before the next step.

        Args:
            task_ids: one id per row; ids may repeat.

        Raises:
            ValueError: if the numbers of ids and rows differ, or an id is not in the task set.
        """
        ids = self.task_set.validate_ids(task_ids)
        if len(ids) != self.batch_size[0]:
            raise ValueError(
                f"set_task got {len(ids)} task ids for an environment with {self.batch_size[0]} rows; "
                "create another environment to change the number of rows."
            )
        self._task_id = torch.tensor(ids, device=self.device)
        self._start_tasks()

    def rollout(
        self,
        max_steps: int,
        policy: Callable[[TensorDictBase], TensorDictBase] | None = None,
        callback: Callable[..., Any] | None = None,
        **options: Any,
    ) -> TensorDictBase:
        """TorchRL's rollout. With ``break_when_any_done=False`` alone, the same result takes less time.

        Args:
            max_steps: number of steps.
            policy: acts; None means uniformly random actions.
            callback: called after each step.
            options: all others of :meth:`torchrl.envs.EnvBase.rollout`.

        Returns:
            TensorDict ``[n, steps]``.
        """
        plain = callback is None and options == {"break_when_any_done": False} and max_steps > 0
        if not plain or not (policy is None or isinstance(policy, TensorDictModuleBase)):
            return super().rollout(max_steps, policy, callback, **options)
        act, state, steps = self.rand_action if policy is None else policy, self.reset(), []
        for _ in range(max_steps - 1):
            step, state = self.step_and_maybe_reset(state.update(act(state)))
            steps.append(step)
        steps.append(self.step(state.update(act(state))))
        return stack_steps(steps, self.ndim).refine_names(..., "time")

    def rand_action(self, tensordict: TensorDictBase | None = None) -> TensorDictBase:
        """Write uniformly random actions, the numbers of the action spec's ``rand``.

        Args:
            tensordict: where to write them. None means a new TensorDict.
        """
        spec = self.full_action_spec[self.action_key]
        if spec is not self._drawn[0]:  # its bounds are expanded anew whenever they are read
            if not isinstance(spec, Bounded) or spec.dtype != torch.float32:
                return super().rand_action(tensordict)  # pyright: ignore[reportArgumentType] (None is allowed)
            space: Any = spec.space
            low, high = space.low, space.high
            self._drawn = spec, low, high, high - low
        _, low, high, width = self._drawn
        action = torch.rand(spec.shape, device=spec.device).mul_(width).add_(low).clamp_(low, high)
        if tensordict is None:
            tensordict = TensorDict({}, batch_size=self.batch_size, device=self.device)
        return tensordict.set(self.action_key, action)

    def maybe_reset(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Restart the rows that are done, with TorchRL's result.

        Entries that a reset does not write, such as actions, become 0 in a row that restarts alone.

        Args:
            tensordict: a state from ``step_mdp``, modified in place.
        """
        done = tensordict.get("done", None)
        if done is None or not self.writes_specs:
            return super().maybe_reset(tensordict)
        if not done.any():
            return tensordict
        entries = dict(tensordict.items())
        if any(not isinstance(entry, Tensor) for entry in entries.values()):
            return super().maybe_reset(tensordict)
        start = dict(self._reset(TensorDict({"_reset": done}, batch_size=self.batch_size)).items())
        if done.all():
            return tensordict.update({**start, **{name: torch.zeros_like(done) for name in _ENDS}})
        for name, entry in entries.items():
            rows = done.view(-1, *[1] * (entry.ndim - 1))
            first = start.get(name)
            entries[name] = entry.masked_fill(rows, 0) if first is None else torch.where(rows, first, entry)
        return tensordict.update(entries)

    def _step_proc_data(self, next_tensordict_out: TensorDictBase) -> TensorDictBase:
        """TorchRL's completion of a step's output, which complete outputs do not need."""
        if self.writes_specs and not self.run_type_checks:
            return next_tensordict_out
        return super()._step_proc_data(next_tensordict_out)

    @abstractmethod
    def _start_tasks(self) -> None:
        """Apply the tasks in ``_task_id`` at the start of an episode."""

    def _output(self, **values: Tensor) -> TensorDict:
        """The output of ``_reset`` and ``_step``: these entries and the task of each row."""
        entries = {**values, "task_id": self._task_id}
        make: Any = TensorDict
        if self.writes_specs and all(value.device == self.device for value in entries.values()):
            make = TensorDict._new_unsafe  # without checks, as in TorchRL's environments
        return make(entries, batch_size=self.batch_size, device=self.device)


def to_tensors(values: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """Convert a simulator's arrays to CPU tensors, with float64 converted to float32."""
    return {
        name: torch.from_numpy(value.astype(np.float32) if value.dtype == np.float64 else value)
        for name, value in values.items()
    }
