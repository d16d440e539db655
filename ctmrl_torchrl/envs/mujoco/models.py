"""The published robots, built from gymnasium's assets, and the model fields that differ between tasks."""

from __future__ import annotations

from importlib.resources import files

import mujoco
import numpy as np

from ctmrl_torchrl.envs.mujoco.robots import Robot
from ctmrl_torchrl.envs.task_parameters import RANDOMIZED_FIELDS

#: Half Cheetah's asset rescales its mass to 14 kg with a deprecated option; this density has the same effect.
_RESCALING = 'settotalmass="14"'
_CHEETAH_DENSITY = 660.884950077473


def load_model(robot: Robot) -> mujoco.MjModel:
    """The nominal compiled model of a robot.

    Raises:
        RuntimeError: if gymnasium's asset differs from the one used for the published tasks.
    """
    xml = (files("gymnasium") / "envs" / "mujoco" / "assets" / robot.asset).read_text(encoding="utf-8")
    rescaled = _RESCALING in xml
    spec = mujoco.MjSpec.from_string(xml.replace(_RESCALING, ""))
    for geom in spec.geoms if rescaled else ():
        geom.density = _CHEETAH_DENSITY
    model = spec.compile()
    if robot.set_timestep:
        model.opt.timestep = robot.timestep
    if robot.halve_margins:
        model.geom_margin *= 0.5
    mass = model.body_mass.sum()
    if not np.isclose(mass, robot.total_mass, rtol=1e-5) or model.opt.timestep != robot.timestep:
        raise RuntimeError(
            f"{robot.asset} of the installed gymnasium gives {mass:.5f} kg and a step of "
            f"{model.opt.timestep} s; the tasks are for {robot.total_mass} kg and {robot.timestep} s. "
            "Install a version of gymnasium from the range in pyproject.toml."
        )
    return model


def task_fields(model: mujoco.MjModel, log_multipliers: np.ndarray) -> dict[str, np.ndarray]:
    """Model fields of tasks with different bodies: nominal values times the tasks' multipliers.

    Args:
        model: the nominal model; it is not changed.
        log_multipliers: ``[n, parameters]``, the flat fields one after the other as in
            :func:`~ctmrl_torchrl.envs.task_parameters.log_multipliers`.

    Returns:
        field name to values ``[n, *shape]``.
    """
    nominal = {name: np.array(getattr(model, name)) for name in RANDOMIZED_FIELDS}
    ends = np.cumsum([value.size for value in nominal.values()])
    parts = np.split(np.exp(log_multipliers), ends[:-1], axis=-1)
    return {
        name: value * part.reshape(-1, *value.shape)
        for (name, value), part in zip(nominal.items(), parts, strict=True)
    }
