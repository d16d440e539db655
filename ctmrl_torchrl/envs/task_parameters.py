"""Task parameters of each built-in family: functions from a number of tasks to one row of parameters each."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: distance within which the sparse point robot is rewarded
SPARSE_RADIUS = 0.2
#: the goal of the wind family
WIND_GOAL = (1.0, 0.0)
WIND_SEED = 1337
WIND_BOUND = 0.05
BODY_SEED = 1234
#: the model fields that differ between tasks of the hopper and walker families, in the order of sampling
RANDOMIZED_FIELDS = ("body_mass", "body_inertia", "dof_damping", "geom_friction")
#: base of a field's multipliers, whose exponents lie in [-3, 3]
_MULTIPLIER_BASES = {"body_mass": 1.5, "body_inertia": 1.5, "dof_damping": 1.3, "geom_friction": 1.5}


def half_circle_goals(num_tasks: int) -> Tensor:
    """Evenly spaced goals on the upper unit half circle, including both ends.

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

    All x components are sampled before the first y component, so a task's wind depends on ``num_tasks``. Only
    NumPy's legacy generator reproduces the published task sets.

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


def given_goals(parameters: Tensor) -> Tensor:
    """The goals ``[tasks, 2]`` of families whose task parameters are goals: the parameters themselves."""
    return parameters


def wind_goals(parameters: Tensor) -> Tensor:
    """The goals ``[tasks, 2]`` of the wind family, the same for every task.

    Example:
        >>> wind_goals(uniform_winds(2)).tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    return parameters.new_tensor(WIND_GOAL).expand(len(parameters), 2)


def target_velocities(num_tasks: int) -> Tensor:
    """Evenly spaced velocities from 1 to 3 m/s, including both ends, ``[num_tasks, 1]`` float64.

    Example:
        >>> target_velocities(3).flatten().tolist()
        [1.0, 2.0, 3.0]
    """
    return torch.linspace(1.0, 3.0, num_tasks, dtype=torch.float64).unsqueeze(-1)


def circle_goals(num_tasks: int) -> Tensor:
    """Evenly spaced goals on the circle of radius 2, ``[num_tasks, 2]`` float64, the first on the x axis.

    Example:
        >>> circle_goals(4).round(decimals=3).abs().tolist()
        [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]
    """
    angles = torch.arange(num_tasks, dtype=torch.float64) * (2.0 * torch.pi / num_tasks)
    return 2.0 * torch.stack((angles.cos(), angles.sin()), dim=-1)


def multiplier_sizes(bodies: int, velocities: int, geoms: int) -> dict[str, int]:
    """Number of values of each of ``RANDOMIZED_FIELDS`` in a model of these sizes."""
    sizes = (bodies, 3 * bodies, velocities, 3 * geoms)
    return dict(zip(RANDOMIZED_FIELDS, sizes, strict=True))


def log_multipliers(num_tasks: int, *, bodies: int, velocities: int, geoms: int) -> Tensor:
    """Logarithms of the multipliers of a task's model fields, ``[num_tasks, parameters]`` float64.

    The multiplier is 1.5 (1.3 for dampings) to a power that is uniform in [-3, 3]. It is also sampled for
    elements that are zero in the nominal model (the world's mass, undamped joints), because NumPy's legacy
    generator only reproduces the published tasks if no sample is skipped.

    Example:
        >>> log_multipliers(1, bodies=5, velocities=6, geoms=5)[0, :3].exp().round(decimals=6).tolist()
        [0.472145, 1.345903, 0.859422]
    """
    sizes = multiplier_sizes(bodies, velocities, geoms)
    exponents = np.random.RandomState(BODY_SEED).uniform(-3.0, 3.0, (num_tasks, sum(sizes.values())))
    bases = np.concatenate([np.full(size, _MULTIPLIER_BASES[name]) for name, size in sizes.items()])
    return torch.from_numpy(exponents * np.log(bases))
