"""The seven families of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ctmrl_torchrl.envs.families import EnvFamily, register_family
from ctmrl_torchrl.envs.task_parameters import (
    SPARSE_RADIUS,
    circle_goals,
    given_goals,
    half_circle_goals,
    log_multipliers,
    multiplier_sizes,
    target_velocities,
    uniform_winds,
    wind_goals,
)

_GOAL_PARAMETERS = ("goal_x", "goal_y")
_WIND_PARAMETERS = ("wind_x", "wind_y")
#: the first two features of the observation are the position
_IN_THE_PLANE = (0, 1)
_POINT_REWARDS = "ctmrl_torchrl.envs.point_robot:rewards_in_tasks"
_ROBOT_REWARDS = "ctmrl_torchrl.envs.mujoco.relabel:rewards_in_tasks"
_DRAW_PATHS = "ctmrl_torchrl.training.report:draw_trajectories"
_DRAW_ROBOT = "ctmrl_torchrl.training.robot_report:draw_robot"

# Shared fields of the three point robots.
_POINT_ROBOT: dict[str, Any] = {
    "observation_dim": 2,
    "action_dim": 2,
    "horizon": 20,
    "discount": 0.9,
    "env_builder": "ctmrl_torchrl.envs.point_robot_env:build_point_robot",
    "gymnasium_class": "ctmrl_torchrl.envs.gym_envs:PointRobotGymEnv",
    "optimum": "ctmrl_torchrl.envs.point_robot:task_set_optimum",
    "plane": _IN_THE_PLANE,
    "figures": (_DRAW_PATHS,),
}

register_family(
    EnvFamily(
        name="point_robot",
        context_next_observation=False,
        task_rewards=_POINT_REWARDS,
        presets={"repo": (30, 10), "paper": (80, 20)},
        parameter_names=_GOAL_PARAMETERS,
        sample_parameters=half_circle_goals,
        goal_positions=given_goals,
        gymnasium_id="ctmrl/PointRobot-v0",
        random_return={"repo": {"train": -20.35, "test": -20.36}, "paper": {"train": -20.35, "test": -20.35}},
        **_POINT_ROBOT,
    )
)
register_family(
    EnvFamily(
        name="point_robot_wind",
        context_next_observation=True,
        presets={"repo": (30, 10), "paper": (40, 10)},
        parameter_names=_WIND_PARAMETERS,
        sample_parameters=uniform_winds,
        goal_positions=wind_goals,
        gymnasium_id="ctmrl/PointRobotWind-v0",
        random_return={"repo": {"train": -21.4, "test": -25.0}, "paper": {"train": -21.9, "test": -23.0}},
        **_POINT_ROBOT,
    )
)
register_family(
    EnvFamily(
        name="sparse_point_robot",
        context_next_observation=False,
        task_rewards=_POINT_REWARDS,
        return_key=("next", "sparse_reward"),
        goal_radius=SPARSE_RADIUS,
        presets={"repo": (30, 10), "paper": (80, 20)},
        parameter_names=_GOAL_PARAMETERS,
        sample_parameters=half_circle_goals,
        goal_positions=given_goals,
        gymnasium_id="ctmrl/SparsePointRobot-v0",
        random_return={"repo": {"train": 0.0008, "test": 0.0007}, "paper": {"train": 0.0008, "test": 0.0005}},
        **_POINT_ROBOT,
    )
)

# Shared fields of the four MuJoCo robots.
_MUJOCO: dict[str, Any] = {
    "horizon": 200,
    "discount": 0.99,
    "simulator": "mujoco",
    "env_builder": "ctmrl_torchrl.envs.mujoco.env:build_mujoco",
    "gymnasium_class": "ctmrl_torchrl.envs.mujoco.gym_env:MujocoGymEnv",
}


def _same_tasks(**returns: float) -> dict[str, dict[str, float]]:
    """Returns for both presets, which have the same 30 + 10 tasks."""
    return {"repo": returns, "paper": returns}


def _numbered(counts: Mapping[str, int]) -> tuple[str, ...]:
    return tuple(f"log_{name}_{i}" for name, count in counts.items() for i in range(count))


def _bodies(**sizes: int) -> dict[str, Any]:
    """Fields of a family whose tasks differ in the robot's body, for a model of these sizes."""
    counts = multiplier_sizes(**sizes)
    # Body 0 is the world; the first three joints move the robot through the plane without damping.
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
        presets={"repo": (30, 10), "paper": (80, 20)},
        parameter_names=("velocity",),
        sample_parameters=target_velocities,
        gymnasium_id="ctmrl/HalfCheetahVel-v0",
        task_rewards=_ROBOT_REWARDS,
        figures=(_DRAW_ROBOT,),
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
        presets={"repo": (30, 10), "paper": (30, 10)},
        parameter_names=_GOAL_PARAMETERS,
        sample_parameters=circle_goals,
        plane=_IN_THE_PLANE,
        goal_positions=given_goals,
        gymnasium_id="ctmrl/AntGoal-v0",
        task_rewards=_ROBOT_REWARDS,
        figures=(_DRAW_ROBOT, _DRAW_PATHS),
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
        presets={"repo": (30, 10), "paper": (30, 10)},
        terminates=True,
        gymnasium_id="ctmrl/HopperRandParams-v0",
        figures=(_DRAW_ROBOT,),
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
        presets={"repo": (30, 10), "paper": (30, 10)},
        terminates=True,
        gymnasium_id="ctmrl/WalkerRandParams-v0",
        figures=(_DRAW_ROBOT,),
        random_return=_same_tasks(train=0.3, test=-0.2),
        **_bodies(bodies=8, velocities=9, geoms=8),
        **_MUJOCO,
    )
)
