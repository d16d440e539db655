"""Off-screen rendering of the robots."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

from ctmrl_torchrl.envs.mujoco.models import load_model, task_fields
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.envs.task_sets import TaskSet

#: off-screen rendering platforms: the graphics driver, then software
_PLATFORMS = ("egl", "osmesa")


class RenderingUnavailableError(RuntimeError):
    """This machine cannot render off-screen; the message lists the attempts and what to install."""


def _make_context(width: int, height: int) -> Any:
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    for platform in _PLATFORMS if wanted not in _PLATFORMS else (wanted,):
        try:
            context = importlib.import_module(f"mujoco.{platform}").GLContext(width, height)
            context.make_current()
        except Exception as error:  # platforms raise different exceptions
            reasons.append(f"{platform}: {type(error).__name__}: {error}")
        else:
            return context
    raise RenderingUnavailableError(
        f"off-screen rendering is not available ({'; '.join(reasons)}). Install EGL (Debian: libegl1) or "
        "OSMesa (libosmesa6), or set MUJOCO_GL to the installed one. Only figures of robots need it."
    )


def render_robot(
    task_set: TaskSet,
    task: int,
    qpos: np.ndarray,
    *,
    width: int = 320,
    height: int = 240,
    distance: float | None = None,
) -> np.ndarray:
    """Render a task's robot in given positions from the side, with a tracking camera.

    Args:
        task_set: the tasks of a MuJoCo family.
        task: id of the task, which determines the robot's body in some families.
        qpos: positions ``[n, nq]``.
        width, height: size of an image in pixels.
        distance: distance of the camera in meters; by default 3, or 6 if the task has a goal, which is drawn
            as a red post.

    Returns:
        uint8 ``[n, height, width, 3]``.

    Raises:
        RenderingUnavailableError: if there is neither EGL nor OSMesa.
        ValueError: if the task or the shape of the positions is wrong.
    """
    (task,) = task_set.validate_ids([task])
    robot = ROBOTS[task_set.name]
    model = load_model(robot)
    if qpos.ndim != 2 or qpos.shape[1] != model.nq:
        raise ValueError(
            f"qpos must have the shape [n, {model.nq}] for {task_set.name}, got {list(qpos.shape)}."
        )
    if robot.task_is_body:
        for name, values in task_fields(model, task_set.parameters[[task]].numpy()).items():
            getattr(model, name)[:] = values[0]
    model.vis.global_.offwidth, model.vis.global_.offheight = width, height
    family = task_set.family
    goal = None
    if family.goal_positions is not None:
        goal = family.goal_positions(task_set.parameters[[task]])[0].numpy()
    distance = distance or (3.0 if goal is None else 6.0)
    context = _make_context(width, height)
    try:
        return _draw(model, qpos, (width, height), _follow(distance, -12.0 if goal is None else -35.0), goal)
    finally:
        context.free()


def _follow(distance: float, elevation: float) -> Callable[[mujoco.MjData], mujoco.MjvCamera]:
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = distance, 90.0, elevation

    def look(data: mujoco.MjData) -> mujoco.MjvCamera:
        x, y, _ = data.xpos[1]  # the first body is the torso
        camera.lookat = (x, y, 0.6)
        return camera

    return look


def _draw(
    model: mujoco.MjModel,
    qpos: np.ndarray,
    size: tuple[int, int],
    look: Callable[[mujoco.MjData], mujoco.MjvCamera],
    goal: np.ndarray | None,
) -> np.ndarray:
    data, options = mujoco.MjData(model), mujoco.MjvOption()
    scene = mujoco.MjvScene(model, maxgeom=1000)
    graphics = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
    mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, graphics)
    view = mujoco.MjrRect(0, 0, *size)
    frames = np.empty((len(qpos), size[1], size[0], 3), dtype=np.uint8)
    for position, frame in zip(qpos, frames, strict=True):
        data.qpos[:] = position
        mujoco.mj_forward(model, data)
        mujoco.mjv_updateScene(
            model, data, options, None, look(data), mujoco.mjtCatBit.mjCAT_ALL.value, scene
        )
        if goal is not None:
            _add_post(scene, goal)
        mujoco.mjr_render(view, scene, graphics)
        mujoco.mjr_readPixels(frame, None, view, graphics)
    graphics.free()
    return frames[:, ::-1].copy()  # OpenGL's first row is the lowest


def _add_post(scene: mujoco.MjvScene, place: np.ndarray) -> None:
    """Draw a red post at ``place`` ``[2]`` in the plane."""
    post = scene.geoms[scene.ngeom]
    size, center = np.array([0.12, 0.5, 0.0]), np.array([*place, 0.5])
    color = np.array([0.85, 0.1, 0.1, 1.0], dtype=np.float32)
    mujoco.mjv_initGeom(post, mujoco.mjtGeom.mjGEOM_CYLINDER, size, center, np.eye(3).ravel(), color)
    post.emission = 1.0
    scene.ngeom += 1
