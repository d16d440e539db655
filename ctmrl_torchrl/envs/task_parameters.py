"""How the tasks of each family are laid out: number of tasks in, one row of parameters per task out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WIND_SEED = 1337
WIND_BOUND = 0.05


def half_circle_goals(num_tasks: int) -> Tensor:
    """Goals on the upper unit half circle, evenly spaced, both ends included.

    Args:
        num_tasks: number of goals.

    Returns:
        float64 goals of shape ``[num_tasks, 2]``, in order of their angle.

    Example:
        >>> half_circle_goals(3).round(decimals=3).tolist()
        [[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]
    """
    angles = torch.linspace(0.0, torch.pi, num_tasks, dtype=torch.float64)
    return torch.stack((angles.cos(), angles.sin()), dim=-1)


def uniform_winds(num_tasks: int) -> Tensor:
    """Constant winds, uniform in the square of half width 0.05.

    All x components are drawn before the first y component, so a task's wind depends on ``num_tasks``. The
    legacy generator is used because only it reproduces the published task sets.

    Args:
        num_tasks: number of winds.

    Returns:
        float64 winds of shape ``[num_tasks, 2]``.

    Example:
        >>> uniform_winds(40)[0].round(decimals=6).tolist()
        [-0.023798, -0.012517]
    """
    generator = np.random.RandomState(WIND_SEED)
    wind_x = generator.uniform(-WIND_BOUND, WIND_BOUND, size=num_tasks)
    wind_y = generator.uniform(-WIND_BOUND, WIND_BOUND, size=num_tasks)
    return torch.from_numpy(np.stack((wind_x, wind_y), axis=-1))
