"""The point robots' formulas: dynamics, rewards and exact optima, for tensors of any batch shape and device.

They are used by the batched environment, the gymnasium environment, data relabeling and the tests.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.envs.task_parameters import SPARSE_RADIUS, wind_goals
from ctmrl_torchrl.envs.task_sets import TaskSet

SparseRule = Literal["plus_one", "normalised"]

MAX_MOVE = 0.1
# The sparse reward is discontinuous at the radius, and optimal paths to axis-aligned goals end exactly on it.
# Without this margin, float32 rounding would determine a reward of 0.8.
_RADIUS_MARGIN = 1e-6


def move(position: Tensor, action: Tensor, wind: Tensor | None = None) -> Tensor:
    """Next position: the action, clipped to ``[-1, 1]`` and scaled to the largest move, plus the wind.

    Args:
        position: ``[*, 2]``.
        action: policy-side action ``[*, 2]``.
        wind: constant displacement per step ``[*, 2]``; None means no wind.
    """
    moved = torch.add(position, action.clamp(-1.0, 1.0), alpha=MAX_MOVE)
    return moved if wind is None else moved.add_(wind)


def dense_reward(position: Tensor, goal: Tensor) -> Tensor:
    """Minus the Euclidean distance to the goal, ``[*, 1]``, at the position after the move."""
    return torch.linalg.vector_norm(position - goal, dim=-1, keepdim=True).neg_()


def sparse_reward(dense: Tensor, rule: SparseRule = "plus_one", radius: float = SPARSE_RADIUS) -> Tensor:
    """The sparse reward for a dense one, which is minus the distance ``d``.

    Args:
        dense: dense rewards, any shape.
        rule: inside the radius ``"plus_one"`` gives ``1 - d`` and ``"normalised"`` gives ``1 - d / radius``;
            both give 0 outside.
        radius: distance up to which (inclusive) the reward is given.

    Raises:
        ValueError: if the rule is unknown or the radius is not positive.

    Example:
        >>> sparse_reward(torch.tensor([-0.1, -0.3])).tolist()
        [0.8999999761581421, 0.0]
    """
    check_sparse_rule(rule, radius)
    inside = dense >= -(radius + _RADIUS_MARGIN)
    scaled = dense if rule == "plus_one" else (dense / radius).clamp(min=-1.0)
    return torch.where(inside, 1.0 + scaled, 0.0)


def check_sparse_rule(rule: str, radius: float) -> None:
    """Raise a ValueError unless the rule is known and the radius is positive."""
    if rule not in get_args(SparseRule):
        raise ValueError(f"Unknown sparse_rule {rule!r}: expected one of {', '.join(get_args(SparseRule))}.")
    if not radius > 0:
        raise ValueError(f"sparse_radius must be positive (it is a distance), got {radius}.")


def optimal_distances(goal: Tensor, wind: Tensor, horizon: int) -> Tensor:
    """Smallest possible distance to the goal after each step; a single path attains all of them.

    After ``t`` steps the reachable set is a box, each coordinate in ``t * (wind - 0.1) .. t * (wind + 0.1)``.
    Moving to the goal's projection onto this box at every step is admissible and minimizes every distance.

    Args:
        goal: ``[tasks, 2]``.
        wind: ``[tasks, 2]``.
        horizon: number of steps.

    Returns:
        float64 distances of shape ``[tasks, horizon]``.
    """
    return torch.linalg.vector_norm(
        goal.double().unsqueeze(1) - optimal_positions(goal, wind, horizon), dim=-1
    )


def optimal_positions(goal: Tensor, wind: Tensor, horizon: int) -> Tensor:
    """The positions of the optimal path, float64 ``[tasks, horizon, 2]``; see ``optimal_distances``."""
    goal, wind = goal.double().unsqueeze(1), wind.double().unsqueeze(1)
    steps = torch.arange(1, horizon + 1, dtype=torch.float64, device=goal.device).view(1, -1, 1)
    return torch.clamp(goal, min=steps * (wind - MAX_MOVE), max=steps * (wind + MAX_MOVE))


def goals_and_winds(task_set: TaskSet) -> tuple[Tensor, Tensor]:
    """Goal and wind of every task of a point-robot family, each float64 ``[tasks, 2]``.

    Raises:
        ValueError: if the task parameters are neither goals nor winds.
    """
    parameters = task_set.parameters.double()
    if task_set.parameter_names == ("goal_x", "goal_y"):
        return parameters, torch.zeros_like(parameters)
    if task_set.parameter_names == ("wind_x", "wind_y"):
        return wind_goals(parameters), parameters
    raise ValueError(
        f"{task_set.name!r} is not a point-robot family: its parameters are "
        f"{list(task_set.parameter_names)}; expected goal_x, goal_y or wind_x, wind_y."
    )


def pays_sparse_reward(task_set: TaskSet) -> bool:
    """Whether the family reports the sparse return."""
    return task_set.family.return_key == ("next", "sparse_reward")


def rewards_in_tasks(task_set: TaskSet, task_ids: Tensor, transitions: TensorDictBase) -> Tensor:
    """The dense rewards of transitions ``[M, L]`` in each of the given tasks, ``[n, M, L]``.

    Example:
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> there = TensorDict({"next": {"observation": torch.tensor([[[1.0, 0.0]]])}}, [1, 1])
        >>> rewards_in_tasks(make_task_set("point_robot"), torch.tensor([0]), there).abs() < 1e-6
        tensor([[[True]]])
    """
    position = transitions["next", "observation"]
    goals, _ = goals_and_winds(task_set)
    goal = goals[task_ids.cpu()].to(position)
    return dense_reward(position.unsqueeze(0), goal[:, None, None]).squeeze(-1)


def task_set_optimum(
    task_set: TaskSet,
    *,
    horizon: int | None = None,
    sparse_rule: SparseRule = "plus_one",
    sparse_radius: float = SPARSE_RADIUS,
) -> Tensor:
    """Exact optimum of the reported return of every task, float64 ``[tasks]``."""
    goal, wind = goals_and_winds(task_set)
    rewards = -optimal_distances(goal, wind, task_set.family.horizon if horizon is None else horizon)
    if pays_sparse_reward(task_set):
        rewards = sparse_reward(rewards, sparse_rule, sparse_radius)
    return rewards.sum(-1)
