"""Meta-environments: families of tasks, batched TorchRL environments and single gymnasium environments."""

from __future__ import annotations

from typing import Any

from ctmrl_torchrl.envs import shipped  # noqa: F401 (registers the shipped families)
from ctmrl_torchrl.envs.batched import BatchedTaskEnv
from ctmrl_torchrl.envs.families import (
    FAMILIES,
    NO_SIMULATOR,
    EnvFamily,
    family_names,
    get_family,
    register_family,
    unregister_family,
)
from ctmrl_torchrl.envs.guests.family import from_gymnasium
from ctmrl_torchrl.envs.guests.simulation import TaskSimulationError
from ctmrl_torchrl.envs.make import make_env
from ctmrl_torchrl.envs.point_robot import sparse_reward
from ctmrl_torchrl.envs.point_robot_env import PointRobotEnv
from ctmrl_torchrl.envs.random_returns import first_episodes, random_returns
from ctmrl_torchrl.envs.task_sets import TaskSet, gap_split, make_task_set, optimal_returns

__all__ = [
    "FAMILIES",
    "NO_SIMULATOR",
    "BatchedTaskEnv",
    "EnvFamily",
    "PointRobotEnv",
    "TaskSet",
    "TaskSimulationError",
    "family_names",
    "first_episodes",
    "from_gymnasium",
    "gap_split",
    "get_family",
    "make_env",
    "make_task_set",
    "optimal_returns",
    "random_returns",
    "register_family",
    "sparse_reward",
    "unregister_family",
]


def __getattr__(name: str) -> Any:
    """Support the former ``ENV_NAMES``, the currently registered names; use ``family_names()`` instead."""
    if name == "ENV_NAMES":
        return family_names()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
