"""Creates the batched environment of a family by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchrl.envs import EnvBase

from ctmrl_torchrl.envs.families import load_entry_point
from ctmrl_torchrl.envs.task_sets import TaskSet, make_task_set


def make_env(
    name: str,
    task_ids: Sequence[int] | Tensor | None = None,
    *,
    preset: str = "repo",
    task_set: TaskSet | None = None,
    device: torch.device | str | None = None,
    seed: int | None = None,
    **options: Any,
) -> EnvBase:
    """Create the batched environment of a family, with one task per row.

    The result has batch size ``[rows]`` and the keys of :class:`~ctmrl_torchrl.envs.BatchedTaskEnv`:
    ``observation``, ``task_id``, ``done``, ``terminated``, ``truncated`` and, under ``"next"``, ``reward``
    (and ``sparse_reward`` for the sparse family). Actions lie in ``[-1, 1]``. ``env.set_task(task_ids)``
    changes the tasks of the rows.

    Args:
        name: name of the family.
        task_ids: the task of each row; ids may repeat. None means every task once, in order.
        preset: the family's task set, unless ``task_set`` is given.
        task_set: the tasks to use instead of a preset.
        device: device of the environment; None means the CPU.
        seed: passed to ``env.set_seed``.
        **options: passed to the family's builder (point robots: ``horizon``, ``sparse_rule``,
            ``sparse_radius``; MuJoCo: ``horizon``, ``threads``, ``recompute_constants``; gymnasium:
            ``horizon``, ``asynchronous``).

    Raises:
        ValueError: if the family, the preset or a task id is unknown, or the task set belongs to another
            family.

    Example:
        >>> env = make_env("point_robot_wind", [0, 1, 1])
        >>> env.reset()["observation"].tolist()
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """
    if task_set is None:
        task_set = make_task_set(name, preset)
    elif task_set.name != name:
        raise ValueError(
            f"make_env({name!r}) got a task set of {task_set.name!r}; both must belong to the same family."
        )
    builder = load_entry_point(task_set.family.env_builder)
    env = builder(task_set, task_ids, "cpu" if device is None else device, **options)
    if seed is not None:
        env.set_seed(seed)
    return env
