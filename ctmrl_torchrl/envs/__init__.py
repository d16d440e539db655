"""Meta-environments: task sets, batched TorchRL environments and their gymnasium twins."""

from __future__ import annotations

from ctmrl_torchrl.envs.families import ENV_NAMES, EnvFamily, get_family, register_family
from ctmrl_torchrl.envs.gym_envs import register_envs
from ctmrl_torchrl.envs.make import make_env
from ctmrl_torchrl.envs.point_robot import sparse_reward
from ctmrl_torchrl.envs.point_robot_env import PointRobotEnv
from ctmrl_torchrl.envs.task_sets import TaskSet, gap_split, make_task_set, optimal_returns

__all__ = [
    "ENV_NAMES",
    "EnvFamily",
    "PointRobotEnv",
    "TaskSet",
    "gap_split",
    "get_family",
    "make_env",
    "make_task_set",
    "optimal_returns",
    "register_envs",
    "register_family",
    "sparse_reward",
]

register_envs()
