"""The figures of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.envs.families import load_entry_point
from ctmrl_torchrl.envs.point_robot import SPARSE_RADIUS
from ctmrl_torchrl.evaluation.figures import (
    plot_adaptation,
    plot_context_map,
    plot_learning,
    plot_trajectories,
)
from ctmrl_torchrl.evaluation.summary import best_known
from ctmrl_torchrl.modules.codebook import Codebook, match_codes
from ctmrl_torchrl.training.data_report import data_report, draw_data

#: tasks shown in the picture of trajectories
SHOWN_TASKS = 6
#: parameters of robots whose observation begins with their place in the plane
PLANE = {"goal_x", "wind_x"}


def draw_figures(
    task_set: TaskSet,
    dataset: TaskDataset,
    runs: dict[str, dict[str, TensorDict]],
    summary: dict[str, Any],
    codebook: Codebook | None,
    run_dir: Path,
    beginnings: dict[str, float],
) -> None:
    """Write ``run_dir/figures/*.png``: data, adaptation, learning curves, contexts, paths.

    Args:
        task_set: whose parameters colour the map and place the goals. dataset: what was learned from.
        runs: ``{split: {protocol: [tasks, repeats]}}``, see
            :class:`~ctmrl_torchrl.training.meta_test.MetaTester`.
        summary: the run's summary. codebook: None leaves the map out. run_dir: where ``metrics.csv`` is.
        beginnings: updates at which parts of the training begin.
    """
    folder = run_dir / "figures"
    folder.mkdir(exist_ok=True)
    reference = summary["reference"]
    best_name, best = best_known(reference)
    subtitle = f"{summary['env']}, method {summary['method']}, {len(task_set.test_ids)} unseen tasks"
    paper = reference["paper"].get("test", {}).get("ctmrl", {}).get("mean")
    plot_adaptation(
        {
            name: {
                "mean": result["per_episode"],
                "low": [low for low, _ in result["per_episode_ci95"]],
                "high": [high for _, high in result["per_episode_ci95"]],
            }
            for name, result in summary["returns"]["test"].items()
        },
        reference["random"],
        best,
        paper,
        folder / "adaptation.png",
        subtitle=subtitle,
        best_name=best_name,
        random_episodes=summary["random_episodes"] if "np" in runs["test"] else None,
    )
    draw_data(data_report(dataset), folder / "data.png")
    plot_learning(
        run_dir / "metrics.csv",
        folder / "learning.png",
        random=reference["random"],
        optimum=best,
        best_name=best_name,
        codes=None if codebook is None else codebook.num_codes,
        subtitle=subtitle,
        beginnings=beginnings,
    )
    protocol = "np" if "np" in runs["test"] else next(iter(runs["test"]))
    if codebook is not None and codebook.codes.shape[-1] > 1:  # a map needs two dimensions
        _draw_map(task_set, {split: runs[split][protocol] for split in runs}, codebook, folder, protocol)
    shown = f"{subtitle}, protocol {protocol}"
    if task_set.family.simulator == "mujoco":
        draw_robot = load_entry_point("ctmrl_torchrl.training.robot_report:draw_robot")
        draw_robot(task_set, runs["test"][protocol], folder, shown)
    if PLANE & set(task_set.parameter_names):
        means = {name: result["mean"] for name, result in summary["returns"]["test"].items()}
        _draw_trajectories(task_set, runs["test"], means, protocol, folder, subtitle)


def _draw_map(
    task_set: TaskSet, runs: dict[str, TensorDict], codebook: Codebook, folder: Path, protocol: str
) -> None:
    contexts = torch.cat([run["task_context"][:, :, -1].flatten(0, 1) for run in runs.values()]).cpu()
    tasks = torch.cat([run["task_id"].flatten() for run in runs.values()]).cpu()
    codes = codebook.codes.detach().cpu()
    names = task_set.parameter_names
    telling = [i for i, name in enumerate(names) if name not in task_set.family.inert_parameters]
    plot_context_map(
        contexts,
        task_set.parameters[tasks][:, telling],
        match_codes(contexts, codes)[1],
        codes,
        folder / "context_map.png",
        is_test=torch.isin(tasks, torch.tensor(task_set.test_ids)),
        parameter_names=[names[i] for i in telling],
        subtitle=f"{task_set.name}, contexts at the end of adaptation under protocol {protocol}",
    )


def _draw_trajectories(
    task_set: TaskSet,
    runs: dict[str, TensorDict],
    means: dict[str, float],
    protocol: str,
    folder: Path,
    subtitle: str,
) -> None:
    """Paths before and after adaptation by ``protocol`` and, where another does better, by that too."""
    first = {name: run[:, 0].cpu() for name, run in runs.items()}
    tasks = first[protocol]["task_id"]
    shown = torch.linspace(0, len(tasks) - 1, min(SHOWN_TASKS, len(tasks))).long()
    goals = task_set.parameters[tasks[shown]]
    if "goal_x" not in task_set.parameter_names:  # the wind family: one goal for all
        goals = torch.tensor([1.0, 0.0]).expand(len(shown), 2)
    before = "Before: random actions" if protocol == "np" else "Before: the first collected episode"
    panels = {before: first[protocol]["first_path"][shown][..., :2]}
    best = max((name for name in means if name != "offline"), key=means.get, default=protocol)
    for name in dict.fromkeys((protocol, best)):
        panels[f"After {name}, mean return {means[name]:.2f}"] = first[name]["last_path"][shown][..., :2]
    plot_trajectories(
        panels,
        goals,
        folder / "trajectories.png",
        goal_radius=SPARSE_RADIUS if task_set.name.startswith("sparse") else None,
        labels=[f"task {task}" for task in tasks[shown].tolist()],
        subtitle=subtitle,
    )
