"""Figures of a MuJoCo robot before and after adaptation: frames, and speeds if speed defines the task."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.envs.mujoco.render import RenderingUnavailableError, render_robot
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS
from ctmrl_torchrl.evaluation import figures

#: moments in the figure, and in the film with the size of its frames
FRAMES = 7
FILM_FRAMES, FILM_SIZE = 32, (216, 162)
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
    """Write ``folder/film.png`` and ``film.gif`` (if this machine can render), for speed tasks ``speed.png``.

    The film shows the task whose last return is the median of all tasks.

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
        _draw_film(task_set, run[_middle(run["returns"][:, 0, -1]), 0], folder, subtitle)
    except RenderingUnavailableError as error:
        torchrl_logger.warning(f"no film of the robot: {error}")


def _middle(returns: torch.Tensor) -> int:
    """The task of the median return."""
    return int(returns.argsort()[len(returns) // 2])


def _draw_speed(task_set: TaskSet, run: TensorDict, folder: Path, subtitle: str) -> None:
    shown = torch.linspace(0, run.shape[0] - 1, min(SPEED_TASKS, run.shape[0])).long()
    rows: Any = run[shown, 0].cpu()
    robot = ROBOTS[task_set.name]
    before, after = (
        np.stack([robot.positions(path.double().numpy())[:, 0] for path in rows[key]])
        for key in ("first_path", "last_path")
    )
    figures.plot_speed(
        before,
        after,
        task_set.parameters[rows["task_id"], 0],
        robot.control_step,
        folder / "speed.png",
        titles=TITLES,
        subtitle=subtitle,
    )


def _draw_film(task_set: TaskSet, episode: TensorDict, folder: Path, subtitle: str) -> None:
    """``film.png`` with a few moments, ``film.gif`` with more; both episodes are shown at equal times."""
    task = int(episode["task_id"])
    subject = f"task {task}{_asked_for(task_set, task)}"
    names = tuple(
        f"{title}, return {_number(float(value))}"
        for title, value in zip(TITLES, (episode["first_return"], episode["returns"][-1]), strict=True)
    )
    rows, captions = _moments(task_set, episode, FRAMES, (320, 240))
    figures.plot_film(rows, names, captions, folder / "film.png", subtitle=f"{subtitle}, {subject}")
    rows, captions = _moments(task_set, episode, FILM_FRAMES, FILM_SIZE)
    short = tuple(name.replace(": the first collected episode", "") for name in names)
    figures.save_film(rows, short, captions, folder / "film.gif", title=f"{task_set.name}, {subject}")


def _moments(
    task_set: TaskSet, episode: TensorDict, count: int, size: tuple[int, int]
) -> tuple[list[np.ndarray], list[list[str]]]:
    """Frames and captions of the first and the last episode at ``count`` equal times of the longer one."""
    robot, task = ROBOTS[task_set.name], int(episode["task_id"])
    paths: list[Any] = [episode[key].cpu() for key in ("first_path", "last_path")]
    ends = [_last_step(path) for path in paths]
    steps = np.linspace(0, max(ends), count).round().astype(int)
    rows, captions = [], []
    for path, end in zip(paths, ends, strict=True):
        positions = robot.positions(path.double().numpy())[np.minimum(steps, end)]
        frames = render_robot(task_set, task, positions, width=size[0], height=size[1])
        frames[steps > end] = frames[steps > end] // 3 + 170  # faded: the episode is over
        rows.append(frames)
        captions.append(
            [
                f"ended at {end * robot.control_step:.1f} s"
                if step > end
                else f"{step * robot.control_step:.1f} s{place}"
                for step, place in zip(steps, _places(task_set, task, positions), strict=True)
            ]
        )
    return rows, captions


def _places(task_set: TaskSet, task: int, positions: np.ndarray) -> list[str]:
    """Where the robot is: the distance to the goal of its task, or how far it has come."""
    goals = task_set.family.goal_positions
    if goals is None:
        return [f" at {_number(x)} m" for x in positions[:, 0]]
    goal = goals(task_set.parameters[[task]])[0].numpy()
    return [f", {_number(np.hypot(*(place - goal)))} m to go" for place in positions[:, :2]]


def _number(value: float) -> str:
    """One decimal, a real minus sign, and no negative zero."""
    return f"{float(value):z.1f}".replace("-", "\u2212")


def _asked_for(task_set: TaskSet, task: int) -> str:
    """Format the task's parameters as text if there are only a few."""
    values = task_set.parameters[task].tolist()
    if len(values) > 2:
        return ""
    named = zip(task_set.parameter_names, values, strict=True)
    text = ", ".join(f"{name.replace('_', ' ')} {value:z.2f}" for name, value in named)
    return f" ({text})".replace("-", "\u2212")


def _last_step(path: Tensor) -> int:
    """Steps until the episode ended. After an early end, the last observation is repeated."""
    moved = (path[1:] != path[:-1]).any(-1).nonzero()
    return int(moved[-1]) + 1 if moved.numel() else 0
