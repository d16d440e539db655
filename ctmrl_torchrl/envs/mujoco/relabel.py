"""Rewards of stored transitions in other tasks, for robots whose tasks differ only in the reward."""

from __future__ import annotations

import numpy as np
import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.envs.task_sets import TaskSet


def rewards_in_tasks(task_set: TaskSet, task_ids: Tensor, transitions: TensorDictBase) -> Tensor:
    """The rewards of transitions ``[M, L]`` in each of the given tasks, ``[n, M, L]``.

    Positions are taken from the observations, which contain them for these robots.

    Raises:
        ValueError: for a robot whose tasks differ in the body, because the transitions would differ too.

    Example:
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> tensors = {"observation": torch.zeros(1, 1, 20), "action": torch.zeros(1, 1, 6)}
        >>> tensors["next"] = {"observation": torch.zeros(1, 1, 20)}
        >>> still = TensorDict(tensors, [1, 1])  # velocity 0, so the reward is minus the target velocity
        >>> rewards_in_tasks(make_task_set("half_cheetah_vel"), torch.tensor([0]), still)
        tensor([[[-1.]]])
    """
    robot = ROBOTS[task_set.name]
    if robot.task_is_body:
        raise ValueError(
            f"{task_set.name!r}: tasks differ in the robot's body and share one reward function."
        )
    observation, following, action = (
        np.asarray(transitions.get(key).flatten(0, 1).double().cpu())
        for key in ("observation", ("next", "observation"), "action")
    )
    before, after = robot.positions(observation), robot.positions(following)
    parameters = task_set.parameters[task_ids.cpu()].double().numpy()
    rewards = [
        robot.reward(before, after, action, np.broadcast_to(row, (len(before), row.size)))
        for row in parameters
    ]
    values = torch.from_numpy(np.stack(rewards)).float()
    return values.view(len(parameters), *transitions.shape).to(transitions["observation"].device)
