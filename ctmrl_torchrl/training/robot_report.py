"""Figures of a MuJoCo robot before and after adaptation: frames, and speeds if speed defines the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.envs.mujoco.render import RenderingUnavailableError, render_robot
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.evaluation.figures import plot_film, plot_speed

FRAMES = 7
#: number of tasks in the speed figure
SPEED_TASKS = 5
TITLES = ("Before: the first collected episode", "After adaptation")


def draw_robot(
    task_set: TaskSet,
    runs: Mapping[str, TensorDict],
    folder: Path,
    *,
    protocol: str,
    means: Mapping[str, float],
    subtitle: str,
) -> None:
    """Write ``folder/film.png`` (if this machine can render) and, for speed tasks, ``folder/speed.png``.

    Args:
        task_set: tasks of a MuJoCo family. runs: ``{protocol: [tasks, repeats]}``, see
            :class:`~ctmrl_torchrl.training.tester.MetaTester`.
        folder: output folder. protocol: the protocol to show. means: mean return by protocol.
        subtitle: second title line.
    """
    run, subtitle = runs[protocol], f"{subtitle}, protocol {protocol}"
    if task_set.parameter_names == ("velocity",):
        _draw_speed(task_set, run, folder, subtitle)
    try:
        _draw_film(task_set, run[run.shape[0] // 2, 0], folder, subtitle)
    except RenderingUnavailableError as error:
        torchrl_logger.warning(f"no film of the robot: {error}")


def _draw_speed(task_set: TaskSet, run: TensorDict, folder: Path, subtitle: str) -> None:
    shown = torch.linspace(0, run.shape[0] - 1, min(SPEED_TASKS, run.shape[0])).long()
    rows = run[shown, 0].cpu()
    robot = ROBOTS[task_set.name]
    before, after = (
        np.stack([robot.positions(path.double().numpy())[:, 0] for path in rows[key]])
        for key in ("first_path", "last_path")
    )
    plot_speed(
        before,
        after,
        task_set.parameters[rows["task_id"], 0],
        robot.control_step,
        folder / "speed.png",
        titles=TITLES,
        subtitle=subtitle,
    )


def _draw_film(task_set: TaskSet, episode: TensorDict, folder: Path, subtitle: str) -> None:
    task = int(episode["task_id"])
    robot = ROBOTS[task_set.name]
    rows, captions = [], []
    for key in ("first_path", "last_path"):
        path = episode[key].cpu()
        steps = np.linspace(0, _last_step(path), FRAMES).round().astype(int)
        positions = robot.positions(path.double().numpy())[steps]
        rows.append(render_robot(task_set, task, positions))
        captions.append(
            [
                f"{step * robot.control_step:.1f} s at {x:.1f} m".replace("-", "\u2212")
                for step, x in zip(steps, positions[:, 0].round(1) + 0.0, strict=True)
            ]
        )
    returned = f"{TITLES[1]}, return {float(episode['returns'][-1]):.1f}".replace("-", "\u2212")
    shown = f"{subtitle}, task {task}{_asked_for(task_set, task)}"
    plot_film(rows, (TITLES[0], returned), captions, folder / "film.png", subtitle=shown)


def _asked_for(task_set: TaskSet, task: int) -> str:
    """Format the task's parameters as text if there are only a few."""
    values = task_set.parameters[task].tolist()
    if len(values) > 2:
        return ""
    named = zip(task_set.parameter_names, values, strict=True)
    text = ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in named)
    return f" ({text})".replace("-", "\u2212")


def _last_step(path: Tensor) -> int:
    """Steps until the episode ended. After an early end, the last observation is repeated."""
    moved = (path[1:] != path[:-1]).any(-1).nonzero()
    return int(moved[-1]) + 1 if moved.numel() else 0
