"""Creates a family of tasks from a function that creates gymnasium environments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from numbers import Integral
from typing import Any, Literal, cast

import gymnasium
import numpy as np
import torch
from tensordict import NestedKey

from ctmrl_torchrl.envs.families import FAMILIES, EnvFamily, register_family, unregister_family
from ctmrl_torchrl.envs.guests.draws import ParameterDraw, check_draws, draw_parameters
from ctmrl_torchrl.envs.guests.env import build_guest
from ctmrl_torchrl.envs.guests.simulation import (
    GuestDefinition,
    GuestGymEnv,
    Task,
    TaskSimulation,
    make_for_task,
)
from ctmrl_torchrl.envs.users_code import source_digests
from ctmrl_torchrl.registry import nearest

#: entries of a transition, and names that no stored entry can have
_TAKEN = ("observation", "action", "done", "terminated", "truncated", "task_id", "mask", "shape", "device")
_MAIN_MODULES = ("__main__", "__mp_main__")
#: fields of a family that are found from the arguments and the environment
_FILLED_IN = (
    "observation_dim",
    "action_dim",
    "parameter_names",
    "sample_parameters",
    "env_builder",
    "simulator",
    "gymnasium_id",
    "gymnasium_class",
    "source",
)


def from_gymnasium(
    name: str,
    make: Callable[..., gymnasium.Env],
    parameters: Mapping[str, ParameterDraw],
    *,
    train_tasks: int = 30,
    test_tasks: int = 10,
    seed: int = 0,
    horizon: int | None = None,
    return_key: NestedKey = ("next", "reward"),
    context_next_observation: bool | Literal["auto"] = "auto",
    discount: float = 0.99,
    presets: Mapping[str, tuple[int, int]] | None = None,
    optimum: str | Callable[..., torch.Tensor] | None = None,
    asynchronous: bool = False,
    terminates: bool = True,
    register: bool = True,
    **more: Any,
) -> EnvFamily:
    """Create a family of tasks from a function that creates a gymnasium environment for given task parameters.

    Sizes, action bounds and the horizon are read from one environment, whose observation and action spaces must
    be a ``Box``. Observations are flattened to float32 vectors, and the policy's actions in ``[-1, 1]`` are
    scaled to the bounds. Terminations and truncations are kept separate. A batch of tasks is stepped in one of
    gymnasium's vector environments.

    A family with the same name and the same function is replaced, so a notebook cell can be run again.

    Args:
        name: the family's name, as in ``env=NAME``: letters, digits, ``_``, ``-`` and ``.``.
        make: called as ``make(**task_parameters)`` with one float per parameter; returns a gymnasium
            environment. With a module-level function (not a lambda), environments can be pickled.
        parameters: how each task parameter is sampled, by name:

            - a range ``(low, high)``: uniformly;
            - a function of one argument, ``f(generator)``: called once per task with a
              ``numpy.random.Generator``; returns one number;
            - a function of two arguments, ``f(generator, n)``, or of one called ``n``, ``num``, ``count``,
              ``size`` or ``num_tasks``: called once; returns the values of all ``n`` tasks.
        train_tasks: number of training tasks.
        test_tasks: number of test tasks; their ids are spread evenly among those of the training tasks.
        seed: seed for sampling the tasks. The same seed gives the same tasks.
        horizon: steps until an episode is truncated. None means the environment's time limit.
        return_key: the reward whose sum is reported as the return. For ``("next", NAME)`` with a name other than
            ``"reward"``, it is read from ``info[NAME]`` at every step.
        context_next_observation: whether contexts include the next observation, as needed if tasks differ in
            their dynamics. ``"auto"`` means True, which is correct for every family.
        discount: discount factor of the learner.
        presets: additional task sets, by name: ``(training tasks, test tasks)``; not ``"repo"``, which
            ``train_tasks`` and ``test_tasks`` define.
        optimum: ``(task_set, **options) -> float64 [tasks]``, the exact optimal returns, if known.
        asynchronous: whether every row has its own process; ``make_env`` can override it.
        terminates: whether an episode may end before the horizon; if False, learners may standardize rewards.
        register: whether to register the family in this library and as ``ctmrl/NAME-v0`` in gymnasium.
        **more: other fields of :class:`~ctmrl_torchrl.envs.EnvFamily`, e.g. ``goal_positions``.

    Returns:
        The family.

    Raises:
        ValueError: if an argument is invalid, or the spaces or the horizon cannot be used; the message
            contains the necessary change.
        TaskSimulationError: if the environment of the first task cannot be created, reset or stepped.

    Example:
        >>> def make_pendulum(mass, length):
        ...     env = gymnasium.make("Pendulum-v1")
        ...     env.unwrapped.m, env.unwrapped.l = mass, length
        ...     return env
        >>> family = from_gymnasium(
        ...     "doc_pendulum", make_pendulum, {"mass": (0.5, 1.5), "length": (0.5, 1.5)}, register=False)
        >>> family.observation_dim, family.action_dim, family.horizon
        (3, 1, 200)
    """
    if context_next_observation not in (True, False, "auto"):
        raise ValueError(
            f"context_next_observation must be True, False or 'auto', got {context_next_observation!r}."
        )
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed must be an integer of at least 0, got {seed!r}.")
    _check_fields(more)
    if presets and "repo" in presets:
        raise ValueError(
            f"presets of {name!r} must not contain 'repo', got {presets!r}: train_tasks and test_tasks define "
            "it; give its counts there."
        )
    presets = {"repo": (train_tasks, test_tasks), **(presets or {})}
    _check_counts(name, train_tasks=train_tasks, test_tasks=test_tasks)
    draws = check_draws(parameters)
    _check_make(name, make, tuple(draws))
    sample = partial(draw_parameters, draws=draws, seed=seed)
    definition, source = _probe(
        name, make, _first_task(sample, draws), _extra_reward(return_key), asynchronous
    )
    definition.check_horizon(horizon)
    steps = definition.time_limit if horizon is None else horizon
    if steps is None:
        raise ValueError(
            f"The horizon of {name!r} is unknown, because its environment has no time limit. Pass horizon= to "
            "from_gymnasium, or wrap the environment in gymnasium.wrappers.TimeLimit."
        )
    family = EnvFamily(
        name=name,
        observation_dim=definition.features,
        action_dim=definition.action_low.size,
        horizon=steps,
        parameter_names=tuple(draws),
        sample_parameters=sample,
        env_builder=partial(build_guest, definition),
        simulator="gymnasium",
        context_next_observation=bool(context_next_observation),
        return_key=return_key,
        discount=discount,
        presets=presets,
        terminates=terminates,
        gymnasium_id=f"ctmrl/{name}-v0",
        gymnasium_class=partial(GuestGymEnv, definition),
        optimum=optimum,
        source=source,
        **more,
    )
    if register:
        _make_room_for(name, make)
        register_family(family)
    return family


def _check_fields(given: Mapping[str, Any]) -> None:
    """Raise a ValueError for an argument that is no field of a family, or that is read from the environment."""
    arguments = [name for name in inspect.signature(from_gymnasium).parameters if name != "more"]
    free = [each.name for each in fields(EnvFamily) if each.name not in (*_FILLED_IN, *arguments)]
    for name in given:
        if name in _FILLED_IN:
            raise ValueError(
                f"from_gymnasium takes no {name!r}: it is found from name, make and parameters. Leave it out, or "
                "register an EnvFamily of your own (register_family)."
            )
        if name not in free:
            known = [*arguments, *free]
            raise ValueError(
                f"from_gymnasium has no argument {name!r}.{nearest(name, known)} Known: {', '.join(known)}."
            )


def _check_counts(name: str, **counts: Any) -> None:
    for argument, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, Integral) or count < 1:
            raise ValueError(
                f"{argument} of {name!r} must be a whole number of at least 1, got {count!r}; every family has "
                "tasks to train on and tasks to test on."
            )


def _check_make(name: str, make: Callable[..., Any], parameters: tuple[str, ...]) -> None:
    if not callable(make):
        raise ValueError(f"make of {name!r} must be a function that returns an environment, got {make!r}.")
    try:
        inspect.signature(make).bind(**dict.fromkeys(parameters, 0.0))
    except TypeError as error:
        raise ValueError(
            f"make of {name!r} is called as make({', '.join(f'{each}=...' for each in parameters)}), which "
            f"it does not accept: {error}."
        ) from None
    except ValueError:  # a built-in without a signature is called below
        pass


def _first_task(sample: Callable[[int], torch.Tensor], draws: Mapping[str, ParameterDraw]) -> Task:
    once, again = sample(2), sample(2)
    for column, parameter in enumerate(draws):
        if not torch.equal(once[:, column], again[:, column]):
            raise ValueError(
                f"The function that samples parameter {parameter!r} returned different values for the same seed; "
                "it must sample from the generator that it receives, and from nothing else."
            )
    return Task(0, dict(zip(draws, once[0].tolist(), strict=True)))


def _extra_reward(return_key: NestedKey) -> str | None:
    if (
        not isinstance(return_key, tuple)
        or len(return_key) != 2
        or return_key[0] != "next"
        or not isinstance(return_key[1], str)
    ):
        raise ValueError(
            f"return_key must be ('next', 'reward') or ('next', NAME), where NAME is a key of info; got "
            f"{return_key!r}."
        )
    name = return_key[1]
    if name in _TAKEN or not name.isidentifier():
        raise ValueError(
            f"return_key cannot be {return_key!r}: the name of a reward must be letters, digits and '_', and "
            f"none of {', '.join(_TAKEN)}. Write it into info under such a name."
        )
    return None if name == "reward" else name


def _probe(
    name: str, make: Callable[..., gymnasium.Env], task: Task, extra: str | None, asynchronous: bool
) -> tuple[GuestDefinition, dict[str, str]]:
    """Sizes, bounds and time limit of one environment, which is created, reset and stepped once.

    Returns:
        The definition, and digests of the user's files that define the environment.
    """
    env = make_for_task(name, make, task)
    try:
        _check_observation_space(name, env.observation_space)
        _check_action_space(name, env.action_space)
        shown, action = (
            cast(gymnasium.spaces.Box, env.observation_space),
            cast(gymnasium.spaces.Box, env.action_space),
        )
        definition = GuestDefinition(
            name=name,
            make=make,
            observation_shape=shown.shape,
            action_low=action.low,
            action_high=action.high,
            time_limit=_time_limit(env),
            extra_reward=extra,
            asynchronous=asynchronous,
        )
        source = source_digests([make, *_classes(env)])
    finally:
        env.close()
    simulation = TaskSimulation(definition, task)
    simulation.reset(seed=0)
    simulation.step(np.zeros(action.shape).reshape(-1))
    simulation.close()
    return definition, source


def _classes(env: gymnasium.Env) -> list[type]:
    """The classes of an environment and of its wrappers, with those that they inherit from."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper):
        layers.append(layers[-1].env)
    return [each for layer in layers for each in type(layer).__mro__]


def _check_observation_space(name: str, space: gymnasium.Space) -> None:
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(
            f"The observation space of {name!r} is {space}; from_gymnasium needs a Box. Return "
            "gymnasium.wrappers.FlattenObservation(env) from make, which converts Dict, Tuple and Discrete "
            "observations to a Box."
        )
    if not np.prod(space.shape) > 0:
        raise ValueError(f"The observation space of {name!r} is empty: {space}.")


def _check_action_space(name: str, space: gymnasium.Space) -> None:
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(
            f"The action space of {name!r} is {space}; from_gymnasium needs a Box of floats, because the "
            "policies are continuous. Return gymnasium.wrappers.TransformAction(env, function, space) from make, "
            "where space is such a Box and function maps its actions to those of env."
        )
    bounded = (
        np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()
    )
    if space.low.size == 0 or not bounded:
        raise ValueError(
            f"The action space of {name!r} must have finite bounds with low < high, got {space}. Return "
            "gymnasium.wrappers.TransformAction(env, lambda action: action, "
            "gymnasium.spaces.Box(LOW, HIGH, SHAPE)) from make."
        )


def _time_limit(env: gymnasium.Env) -> int | None:
    """The smallest limit in the specification and the wrappers."""
    limits = [None if env.spec is None else env.spec.max_episode_steps]
    while isinstance(env, gymnasium.Wrapper):
        limits.append(getattr(env, "_max_episode_steps", None))
        env = env.env
    return min((limit for limit in limits if limit is not None), default=None)


def _make_room_for(name: str, make: Callable[..., Any]) -> None:
    """Remove an earlier family with this name and function, e.g. of a file imported twice."""
    if name not in FAMILIES:
        return
    builder = FAMILIES.get(name).env_builder
    if not isinstance(builder, partial) or builder.func is not build_guest:
        return
    earlier = builder.args[0].make
    same_name = _name_of(earlier) == _name_of(make)
    modules = {getattr(each, "__module__", None) for each in (earlier, make)}
    if same_name and (len(modules) == 1 or modules & set(_MAIN_MODULES)):
        unregister_family(name)


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)
