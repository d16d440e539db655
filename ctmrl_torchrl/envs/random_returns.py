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
        played = env.rollout(env.horizon, break_when_any_done=False)["next"]
    env.close()
    done = played["done"].long()
    first = done.cumsum(1) - done == 0  # rows that ended early were reset and continued
    reward = played[task_set.family.return_key[1:]].double()
    return (reward * first).sum((1, 2)).reshape(episodes, -1).mean(0)
