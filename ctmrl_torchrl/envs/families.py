"""The registry of environment families: what the library knows of each without loading its simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from numbers import Integral
from typing import Any

from tensordict import NestedKey
from torch import Tensor

from ctmrl_torchrl.envs.task_parameters import (
    circle_goals,
    half_circle_goals,
    log_multipliers,
    multiplier_sizes,
    target_velocities,
    uniform_winds,
)


@dataclass(frozen=True)
class EnvFamily:
    """A family of tasks that share spaces and a simulator and differ in a few parameters.

    Builders are named by ``"module:attribute"`` strings and imported on first use, so that looking up a
    family never loads a simulator.

    Args:
        name: the family's name, as used in configurations.
        observation_dim: size of the observation.
        action_dim: size of the policy-side action, which lies in ``[-1, 1]``.
        horizon: steps until an episode is truncated.
        context_next_observation: whether tasks differ in their dynamics, so that a context needs the next
            observation too.
        return_key: the reward that is reported as return and shown to the context encoder.
        discount: discount factor of the learner.
        codes: default size of the codebook.
        presets: name of a preset to ``(number of training tasks, number of test tasks)``.
        parameter_names: one name per column of the task parameters.
        inert_parameters: those of them that are drawn but change nothing, for their nominal value is zero.
        sample_parameters: number of tasks to float64 parameters ``[tasks, len(parameter_names)]``.
        env_builder: ``(task_set, task_ids, device, **options) -> EnvBase``.
        simulator: what steps it, ``"torch"`` or ``"mujoco"``.
        gymnasium_id: id of the single environment in gymnasium's registry.
        gymnasium_class: the single environment; takes ``family``, ``task`` and ``preset``.
        optimum: ``(task_set, **options) -> float64 [tasks]``, the exact optimal returns; None if unknown.
        random_return: preset to split to the measured mean return of uniformly random actions.

    Example:
        >>> get_family("point_robot").horizon
        20
    """

    name: str
    observation_dim: int
    action_dim: int
    horizon: int
    context_next_observation: bool
    return_key: NestedKey
    discount: float
    codes: int
    presets: Mapping[str, tuple[int, int]]
    parameter_names: tuple[str, ...]
    sample_parameters: Callable[[int], Tensor]
    env_builder: str
    gymnasium_id: str
    gymnasium_class: str
    inert_parameters: frozenset[str] = frozenset()
    simulator: str = "torch"
    optimum: str | None = None
    random_return: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def has_optimum(self) -> bool:
        """Whether the exact optimal returns are known."""
        return self.optimum is not None

    def episode_length(self, horizon: int | None = None) -> int:
        """The horizon asked for, or the family's.

        Raises:
            ValueError: if it is not a positive whole number.
        """
        if horizon is None:
            return self.horizon
        if not isinstance(horizon, Integral) or isinstance(horizon, bool) or horizon < 1:
            raise ValueError(f"horizon is a whole number of at least 1 step, got {horizon!r}.")
        return int(horizon)


_FAMILIES: dict[str, EnvFamily] = {}


def register_family(family: EnvFamily) -> EnvFamily:
    """Makes a family known to ``get_family``, ``make_task_set`` and ``make_env``.

    Args:
        family: the family to add.

    Returns:
        The same family.

    Raises:
        ValueError: if the name is taken.
    """
    if family.name in _FAMILIES:
        raise ValueError(
            f"The environment family {family.name!r} is already registered; choose another name."
        )
    _FAMILIES[family.name] = family
    return family


def get_family(name: str) -> EnvFamily:
    """Looks a family up by name.

    Args:
        name: one of ``ENV_NAMES`` or a name given to ``register_family``.

    Raises:
        ValueError: if there is no such family; the message lists those there are.

    Example:
        >>> get_family("sparse_point_robot").return_key
        ('next', 'sparse_reward')
    """
    try:
        return _FAMILIES[name]
    except KeyError:
        raise ValueError(
            f"Unknown environment family {name!r}. Known families: {', '.join(sorted(_FAMILIES))}."
        ) from None


def load_entry_point(entry_point: str) -> Any:
    """Imports what a ``"module:attribute"`` string names."""
    module, _, attribute = entry_point.partition(":")
    return getattr(import_module(module), attribute)


# What the three point robots share.
_POINT_ROBOT: dict[str, Any] = {
    "observation_dim": 2,
    "action_dim": 2,
    "horizon": 20,
    "discount": 0.9,
    "env_builder": "ctmrl_torchrl.envs.point_robot_env:build_point_robot",
    "gymnasium_class": "ctmrl_torchrl.envs.gym_envs:PointRobotGymEnv",
    "optimum": "ctmrl_torchrl.envs.point_robot:task_set_optimum",
}
_GOAL_PARAMETERS = ("goal_x", "goal_y")
_WIND_PARAMETERS = ("wind_x", "wind_y")

register_family(
    EnvFamily(
        name="point_robot",
        context_next_observation=False,
        return_key=("next", "reward"),
        codes=8,
        presets={"repo": (30, 10), "paper": (80, 20)},
        parameter_names=_GOAL_PARAMETERS,
        sample_parameters=half_circle_goals,
        gymnasium_id="ctmrl/PointRobot-v0",
        random_return={"repo": {"train": -20.35, "test": -20.36}, "paper": {"train": -20.35, "test": -20.35}},
        **_POINT_ROBOT,
    )
)
register_family(
    EnvFamily(
        name="point_robot_wind",
        context_next_observation=True,
        return_key=("next", "reward"),
        codes=8,
        presets={"repo": (30, 10), "paper": (40, 10)},
        parameter_names=_WIND_PARAMETERS,
        sample_parameters=uniform_winds,
        gymnasium_id="ctmrl/PointRobotWind-v0",
        random_return={"repo": {"train": -21.4, "test": -25.0}, "paper": {"train": -21.9, "test": -23.0}},
        **_POINT_ROBOT,
    )
)
register_family(
    EnvFamily(
        name="sparse_point_robot",
        context_next_observation=False,
        return_key=("next", "sparse_reward"),
        codes=4,
        presets={"repo": (30, 10), "paper": (80, 20)},
        parameter_names=_GOAL_PARAMETERS,
        sample_parameters=half_circle_goals,
        gymnasium_id="ctmrl/SparsePointRobot-v0",
        random_return={"repo": {"train": 0.0008, "test": 0.0007}, "paper": {"train": 0.0008, "test": 0.0005}},
        **_POINT_ROBOT,
    )
)

# What the four MuJoCo robots share.
_MUJOCO: dict[str, Any] = {
    "horizon": 200,
    "return_key": ("next", "reward"),
    "discount": 0.99,
    "simulator": "mujoco",
    "env_builder": "ctmrl_torchrl.envs.mujoco.env:build_mujoco",
    "gymnasium_class": "ctmrl_torchrl.envs.mujoco.gym_env:MujocoGymEnv",
}


def _same_tasks(**returns: float) -> dict[str, dict[str, float]]:
    """What is measured once where both presets have the same 30 + 10 tasks."""
    return {"repo": returns, "paper": returns}


def _numbered(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"log_{name}_{i}" for name, count in counts.items() for i in range(count))


def _bodies(**sizes: int) -> dict[str, Any]:
    """Tasks that differ in the robot's body: names and values of the multipliers, for a model's sizes."""
    counts = multiplier_sizes(**sizes)
    # Body 0 is the world, the first three joints move the robot through the plane undamped.
    inert = {"body_mass": 1, "body_inertia": 3, "dof_damping": 3}
    return {
        "inert_parameters": frozenset(_numbered(inert)),
        "parameter_names": _numbered(counts),
        "sample_parameters": partial(log_multipliers, **sizes),
    }


register_family(
    EnvFamily(
        name="half_cheetah_vel",
        observation_dim=20,
        action_dim=6,
        context_next_observation=False,
        codes=8,
        presets={"repo": (30, 10), "paper": (80, 20)},
        parameter_names=("velocity",),
        sample_parameters=target_velocities,
        gymnasium_id="ctmrl/HalfCheetahVel-v0",
        random_return={
            "repo": {"train": -439.7, "test": -442.7},
            "paper": {"train": -437.5, "test": -436.7},
        },
        **_MUJOCO,
    )
)
register_family(
    EnvFamily(
        name="ant_goal",
        observation_dim=29,
        action_dim=8,
        context_next_observation=False,
        codes=8,
        presets={"repo": (30, 10), "paper": (30, 10)},
        parameter_names=_GOAL_PARAMETERS,
        sample_parameters=circle_goals,
        gymnasium_id="ctmrl/AntGoal-v0",
        random_return=_same_tasks(train=-727.0, test=-739.0),
        **_MUJOCO,
    )
)
register_family(
    EnvFamily(
        name="hopper_rand_params",
        observation_dim=11,
        action_dim=3,
        context_next_observation=True,
        codes=8,
        presets={"repo": (30, 10), "paper": (30, 10)},
        gymnasium_id="ctmrl/HopperRandParams-v0",
        random_return=_same_tasks(train=7.8, test=7.2),
        **_bodies(bodies=5, velocities=6, geoms=5),
        **_MUJOCO,
    )
)
register_family(
    EnvFamily(
        name="walker_rand_params",
        observation_dim=17,
        action_dim=6,
        context_next_observation=True,
        codes=8,
        presets={"repo": (30, 10), "paper": (30, 10)},
        gymnasium_id="ctmrl/WalkerRandParams-v0",
        random_return=_same_tasks(train=0.3, test=-0.2),
        **_bodies(bodies=8, velocities=9, geoms=8),
        **_MUJOCO,
    )
)

ENV_NAMES: tuple[str, ...] = tuple(_FAMILIES)
