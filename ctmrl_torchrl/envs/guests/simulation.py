"""A gymnasium environment of one task with checks at every step, and its wrapper as a gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn

import gymnasium
import numpy as np

from ctmrl_torchrl.envs.families import checked_horizon
from ctmrl_torchrl.envs.gym_envs import checked_action
from ctmrl_torchrl.envs.task_sets import TaskSet, make_task_set
from ctmrl_torchrl.envs.users_code import line_of

# what gymnasium's functions return
_RESET = ("observation", "info")
_STEP = ("observation", "reward", "terminated", "truncated", "info")


class TaskSimulationError(RuntimeError):
    """A user's environment failed or returned unusable values; the message contains the task."""


@dataclass(frozen=True)
class GuestDefinition:
    """Description of a user's environment without its tasks; picklable if ``make`` is.

    Args:
        name: the family's name.
        make: creates a gymnasium environment from task parameters as keyword arguments.
        observation_shape: shape of its Box observation before flattening.
        action_low, action_high: bounds of its Box action.
        time_limit: steps after which the environment itself truncates an episode, if any.
        extra_reward: key of a second reward in ``info``, if any.
        asynchronous: whether every row has its own process; ``make_env`` can override it.
    """

    name: str
    make: Callable[..., gymnasium.Env]
    observation_shape: tuple[int, ...]
    action_low: np.ndarray
    action_high: np.ndarray
    time_limit: int | None
    extra_reward: str | None = None
    asynchronous: bool = False

    @property
    def features(self) -> int:
        """Size of the flat observation."""
        return int(np.prod(self.observation_shape))

    def scale_action(self, action: np.ndarray) -> np.ndarray:
        """An action ``[actions]``, clipped to ``[-1, 1]``, in the units and shape of the environment."""
        share = (np.clip(action.astype(np.float64), -1.0, 1.0) + 1.0) / 2.0
        low, high = self.action_low.astype(np.float64), self.action_high.astype(np.float64)
        scaled = (low + share.reshape(low.shape) * (high - low)).astype(self.action_low.dtype)
        return np.clip(scaled, self.action_low, self.action_high)

    def check_horizon(self, horizon: int | None) -> None:
        """Raise a ValueError if it is no whole number, or the environment would truncate an episode before it."""
        if horizon is not None and checked_horizon(horizon) > (self.time_limit or horizon):
            raise ValueError(
                f"horizon={horizon} exceeds the time limit of {self.time_limit} steps of the environments of "
                f"{self.name!r}; increase max_episode_steps in make."
            )


@dataclass(frozen=True)
class Task:
    """The task of an environment: its id in the task set and the arguments of ``make``."""

    id: int
    parameters: Mapping[str, float]

    def describe(self) -> str:
        """A description for messages."""
        named = ", ".join(f"{name}={value:.6g}" for name, value in self.parameters.items())
        return f"task {self.id} ({named})"


def tasks_of(task_set: TaskSet, task_ids: list[int]) -> list[Task]:
    """The tasks with these ids."""
    rows = task_set.parameters[task_ids].tolist()
    return [
        Task(task, dict(zip(task_set.parameter_names, row, strict=True)))
        for task, row in zip(task_ids, rows, strict=True)
    ]


class StepResult(NamedTuple):
    """The result of a step: features float32 ``[features]``, rewards and flags."""

    features: np.ndarray
    reward: float
    terminated: bool
    truncated: bool
    extra_reward: float
    info: dict[str, Any]


class TaskSimulation:
    """A user's environment of one task; every error message contains the task.

    Args:
        definition: description of the environment.
        task: its task.

    Raises:
        TaskSimulationError: if ``make`` fails or returns an environment with other spaces than the first task;
            later, if the environment fails or returns values that are not finite.
    """

    def __init__(self, definition: GuestDefinition, task: Task) -> None:
        self.definition, self.task, self.steps = definition, task, 0
        self.env = make_for_task(definition.name, definition.make, task)
        self._check_spaces()

    def _check_spaces(self) -> None:
        known, env = self.definition, self.env
        found = env.observation_space.shape, env.action_space
        same = (
            found[0] == known.observation_shape
            and isinstance(found[1], gymnasium.spaces.Box)
            and np.array_equal(found[1].low, known.action_low)
            and np.array_equal(found[1].high, known.action_high)
        )
        if not same:
            expected = gymnasium.spaces.Box(known.action_low, known.action_high, dtype=known.action_low.dtype)
            env.close()
            raise TaskSimulationError(
                f"All tasks of {known.name!r} must have the same observation shape and action bounds. For "
                f"{self.task.describe()}, make returned an environment with observation shape {found[0]} and "
                f"action space {found[1]}; for the first task, {known.observation_shape} and {expected}."
            )

    def _failed(self, what: str, error: Exception) -> TaskSimulationError:
        return TaskSimulationError(
            f"{what} of {self.definition.name!r} failed for {self.task.describe()}, step {self.steps}: "
            f"{type(error).__name__}: {error}{line_of(error)}"
        )

    def _parts(self, what: str, returned: Any, expected: tuple[str, ...]) -> tuple[Any, ...]:
        """What ``reset`` or ``step`` returned, if it has the parts of gymnasium, of which the last is info."""
        if (
            isinstance(returned, tuple)
            and len(returned) == len(expected)
            and isinstance(returned[-1], Mapping)
        ):
            return returned
        found = type(returned).__name__
        if isinstance(returned, tuple):
            found = (
                f"{len(returned)} values, the last of type {type(returned[-1]).__name__}"
                if returned
                else "()"
            )
        raise TaskSimulationError(
            f"{what} of {self.definition.name!r} must return ({', '.join(expected)}), where info is a "
            f"dictionary; got {found} for {self.task.describe()}, step {self.steps}."
        )

    def reset(self, seed: int | None = None) -> np.ndarray:
        """Start an episode and return the features."""
        self.steps = 0
        try:
            returned = self.env.reset(seed=seed)
        except Exception as error:
            raise self._failed("reset", error) from error
        observation, _ = self._parts("reset", returned, _RESET)
        return self._features(observation)

    def step(self, action: np.ndarray) -> StepResult:
        """Apply an action ``[actions]`` in ``[-1, 1]``."""
        self.steps += 1
        try:
            returned = self.env.step(self.definition.scale_action(action))
        except Exception as error:
            raise self._failed("step", error) from error
        observation, reward, terminated, truncated, info = self._parts("step", returned, _STEP)
        features = self._features(observation)
        return StepResult(
            features,
            self._finite("reward", reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
            self._extra_reward(info),
            info,
        )

    def _extra_reward(self, info: dict[str, Any]) -> float:
        key = self.definition.extra_reward
        if key is None:
            return 0.0
        if key not in info:
            raise TaskSimulationError(
                f"The return of {self.definition.name!r} is the sum of info[{key!r}], but info contains only "
                f"{', '.join(map(repr, info)) or 'no entries'} for {self.task.describe()}, step {self.steps}."
            )
        return self._finite(f"info[{key!r}]", info[key])

    def _features(self, observation: Any) -> np.ndarray:
        try:
            numbers = np.asarray(observation, dtype=np.float32)
        except (TypeError, ValueError):
            self._refuse("observation", observation, "an array of numbers")
        shape = numbers.shape
        if shape != self.definition.observation_shape:
            raise TaskSimulationError(
                f"The observation of {self.definition.name!r} has shape {shape}, but its space has shape "
                f"{self.definition.observation_shape}, for {self.task.describe()}, step {self.steps}."
            )
        features = numbers.reshape(-1)
        broken = (~np.isfinite(features)).nonzero()[0]
        if broken.size:
            self._refuse(f"observation (feature {broken[0]})", features[broken[0]].item())
        return features

    def _finite(self, what: str, value: Any) -> float:
        try:
            array = np.asarray(value)
            number = float(array.item() if array.ndim and array.size == 1 else value)
        except (TypeError, ValueError):
            self._refuse(what, value, "one number")
        if not np.isfinite(number):
            self._refuse(what, value)
        return number

    def _flag(self, what: str, value: Any) -> bool:
        """A flag as a bool; NaN, None and texts, which Python takes for true or false, are refused."""
        array = np.asarray(value)
        if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
            self._refuse(what, value, "True or False")
        return bool(array.item())

    def _refuse(self, what: str, value: Any, expected: str = "finite") -> NoReturn:
        raise TaskSimulationError(
            f"The {what} of {self.definition.name!r} must be {expected}, got {value!r} for "
            f"{self.task.describe()}, step {self.steps}."
        )

    def close(self) -> None:
        """Close the environment."""
        self.env.close()


def make_for_task(name: str, make: Callable[..., gymnasium.Env], task: Task) -> gymnasium.Env:
    """Call ``make`` with the parameters of a task.

    Raises:
        TaskSimulationError: if it fails or does not return an environment.
    """
    try:
        env = make(**task.parameters)
    except Exception as error:
        raise TaskSimulationError(
            f"make of {name!r} failed for {task.describe()}: {type(error).__name__}: {error}{line_of(error)}"
        ) from error
    if not isinstance(env, gymnasium.Env):
        raise TaskSimulationError(
            f"make of {name!r} must return a gymnasium.Env, got {type(env).__name__} for {task.describe()}."
        )
    return env


class GuestGymEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """A gymnasium environment of one task of a custom family, equivalent to one row of ``GuestEnv``.

    Observations are flat float32 arrays. Actions are clipped to ``[-1, 1]``. The reward is the one that the
    family reports. Episodes are truncated at the horizon.

    Args:
        definition: what is known of the environment.
        family: name of the family.
        task: id of the task.
        preset: task set of the id.
        horizon: steps until truncation. None means the family's.

    Raises:
        ValueError: if the family, preset, task or horizon is invalid; raised by ``step`` if the action is.
        TaskSimulationError: if the user's environment fails.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        definition: GuestDefinition,
        family: str,
        task: int = 0,
        preset: str = "repo",
        *,
        horizon: int | None = None,
    ) -> None:
        tasks = make_task_set(family, preset)
        definition.check_horizon(horizon)
        self.horizon = tasks.family.episode_length(horizon)
        (self.task,) = tasks.validate_ids([task])
        self.simulation = TaskSimulation(definition, tasks_of(tasks, [self.task])[0])
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (definition.features,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (definition.action_low.size,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode; see ``gymnasium.Env.reset``."""
        super().reset(seed=seed)
        return self.simulation.reset(seed), {"task_id": self.task}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Apply an action; see ``gymnasium.Env.step``."""
        result = self.simulation.step(checked_action(action, self.action_space))
        truncated = result.truncated or self.simulation.steps >= self.horizon
        reward = result.reward if self.simulation.definition.extra_reward is None else result.extra_reward
        return result.features, reward, result.terminated, truncated, {**result.info, "task_id": self.task}

    def close(self) -> None:
        """Close the user's environment."""
        self.simulation.close()
