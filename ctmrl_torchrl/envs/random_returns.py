"""Returns of uniformly random actions: the lower reference of families that do not define one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctmrl_torchrl.envs.make import make_env
from ctmrl_torchrl.envs.task_sets import TaskSet


def random_returns(task_set: TaskSet, *, episodes: int = 4, seed: int = 0, **options: Any) -> Tensor:
    """Measure the mean return of uniformly random actions in every task.

    The global random state is not changed.

    Args:
        task_set: the tasks.
        episodes: episodes per task, collected in parallel.
        seed: seed of initial states and actions.
        **options: passed to the family's builder.

    Returns:
        float64 returns of shape ``[tasks]`` for the family's ``return_key``.

    Example:
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> round(random_returns(make_task_set("point_robot"), episodes=20).mean().item(), 1)
        -20.3
    """
    task_ids = torch.arange(task_set.n_tasks).repeat(episodes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        env = make_env(task_set.name, task_ids, task_set=task_set, seed=seed, **options)
        played: Any = env.rollout(env.horizon, break_when_any_done=False)["next"]
    env.close()
    rewards = first_episodes(played[task_set.family.return_key[1:]], played["done"])
    return rewards.double().sum((1, 2)).reshape(episodes, -1).mean(0)


def first_episodes(rewards: Tensor, done: Tensor) -> Tensor:
    """Rewards ``[rows, steps, 1]`` of each row's first episode; those of later episodes become 0.

    In a rollout with ``break_when_any_done=False``, rows that end early are reset and continue.

    Examples:
        >>> done = torch.tensor([[False, True, False]]).unsqueeze(-1)
        >>> first_episodes(torch.ones(1, 3, 1), done).flatten().tolist()
        [1.0, 1.0, 0.0]
    """
    ended = done.long()
    return rewards * (ended.cumsum(1) - ended == 0)
