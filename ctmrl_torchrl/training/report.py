"""The figures of one run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.envs.families import load_entry_point
from ctmrl_torchrl.evaluation import figures
from ctmrl_torchrl.evaluation.paper import proposed_method
from ctmrl_torchrl.evaluation.summary import best_known
from ctmrl_torchrl.methods import Drawing, Parts
from ctmrl_torchrl.objectives import MetaLoss
from ctmrl_torchrl.training.data_report import data_report, draw_data, picture_or_warning
from ctmrl_torchrl.training.loggers import RunLogger

#: number of tasks in the trajectory figure
SHOWN_TASKS = 6


def draw_figures(
    task_set: TaskSet,
    dataset: TaskDataset,
    runs: Mapping[str, Mapping[str, TensorDict]],
    summary: Mapping[str, Any],
    loss: MetaLoss,
    parts: Parts,
    metrics: Path,
    milestones: Mapping[str, float],
    folder: Path,
) -> None:
    """Write ``folder/*.png``: data, adaptation, learning curves, contexts, and figures of family and method.

    The environment family (:attr:`EnvFamily.figures <ctmrl_torchrl.envs.EnvFamily>`) and each part of the
    method (:meth:`Part.draw <ctmrl_torchrl.methods.Part.draw>`) can add figures. A figure that cannot be drawn
    is skipped with a warning.

    Args:
        task_set: its parameters color the map and place the goals. dataset: the training data.
        runs: ``{split: {protocol: [tasks, repeats]}}``, see
            :class:`~ctmrl_torchrl.training.tester.MetaTester`.
        summary: the run's summary. loss: the agent, whose losses name their curves.
        parts: parts of the method. metrics: the run's ``metrics.csv``.
        milestones: updates at which training phases begin or end. folder: output folder.
    """
    unseen = len(task_set.test_ids)
    subtitle = (
        f"{summary['env']}, method {summary['method']}, {unseen} unseen {'task' if unseen == 1 else 'tasks'}"
    )
    with picture_or_warning("data"):
        draw_data(data_report(dataset), folder / "data.png")
    with picture_or_warning("learning"):
        _draw_learning(summary, loss, parts, metrics, folder, milestones, subtitle)
    for part in parts.parts:
        with picture_or_warning(f"figures of {part.name}"):
            part.draw(Drawing(folder, runs, summary, subtitle))
    tested = runs["test"]
    if not tested:
        return
    with picture_or_warning("adaptation"):
        _draw_adaptation(summary, tested, folder, subtitle)
    protocol = min(tested, key=lambda name: (name != "np", name == "none"))  # the first one, np if tested
    with picture_or_warning("context_map"):
        shown = {split: runs[split][protocol] for split in runs if protocol in runs[split]}
        _draw_map(task_set, shown, parts.candidates(), folder, protocol)
    means = {name: result["mean"] for name, result in summary["returns"]["test"].items()}
    for figure in task_set.family.figures:
        with picture_or_warning(str(figure)):
            draw = load_entry_point(figure)
            draw(task_set, tested, folder, protocol=protocol, means=means, subtitle=subtitle)


def log_pictures(logger: RunLogger, folder: Path, step: int) -> None:
    """Give the logger every figure and film of a folder; one that it cannot take is a warning."""
    for picture in sorted(folder.iterdir()):
        with picture_or_warning(f"{picture.name} in {type(logger).__name__}"):
            logger.picture(picture, step)


def _draw_adaptation(
    summary: Mapping[str, Any], tested: Mapping[str, TensorDict], folder: Path, subtitle: str
) -> None:
    reference = summary["reference"]
    best_name, best = best_known(reference)
    figures.plot_adaptation(
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
        reference["paper"].get("test", {}).get(proposed_method(), {}).get("mean"),
        folder / "adaptation.png",
        subtitle=subtitle,
        best_name=best_name,
        random_episodes=summary["random_episodes"] if "np" in tested else None,
    )


def _draw_learning(
    summary: Mapping[str, Any],
    loss: MetaLoss,
    parts: Parts,
    metrics: Path,
    folder: Path,
    milestones: Mapping[str, float],
    subtitle: str,
) -> None:
    best_name, best = best_known(summary["reference"])
    candidates = parts.candidates()
    terms = loss.representation
    policy_titles = getattr(loss.policy, "curve_titles", {})
    for name, everything in (("learning.png", False), ("learning_all.png", True)):
        figures.plot_learning(
            metrics,
            folder / name,
            everything=everything,
            random=summary["reference"]["random"],
            optimum=best,
            best_name=best_name,
            codes=None if candidates is None else candidates.shape[0],
            subtitle=subtitle,
            milestones=milestones,
            titles={**policy_titles, **terms.curve_titles, **parts.curve_titles},
            representation=[key for key in terms.out_keys if key.startswith("loss_")],
            main=terms.main_curve,
        )


def _draw_map(
    task_set: TaskSet,
    runs: Mapping[str, TensorDict],
    codes: Tensor | None,
    folder: Path,
    protocol: str,
) -> None:
    contexts = torch.cat([run["task_context"][:, :, -1].flatten(0, 1) for run in runs.values()]).cpu()
    tasks = torch.cat([run["task_id"].flatten() for run in runs.values()]).cpu()
    if contexts.shape[-1] < 2 or contexts.shape[0] < 3 or bool((contexts == contexts[0]).all()):
        return  # a map needs two dimensions, and contexts that differ
    names = task_set.parameter_names
    effective = [i for i, name in enumerate(names) if name not in task_set.family.inert_parameters]
    figures.plot_context_map(
        contexts,
        task_set.parameters[tasks][:, effective],
        None if codes is None else codes.cpu(),
        folder / "context_map.png",
        is_test=torch.isin(tasks, torch.tensor(task_set.test_ids)),
        parameter_names=[names[i] for i in effective],
        subtitle=f"{task_set.name}, contexts at the end of adaptation, protocol {protocol}",
    )


def draw_trajectories(
    task_set: TaskSet,
    runs: Mapping[str, TensorDict],
    folder: Path,
    *,
    protocol: str,
    means: Mapping[str, float],
    subtitle: str,
) -> None:
    """Draw paths before and after adaptation under ``protocol`` and under the best protocol if it differs.

    Args:
        task_set: tasks of a family with a ``plane`` and goals.
        runs: ``{protocol: [tasks, repeats]}``. folder: output folder of ``trajectories.png``.
        protocol: the protocol shown first. means: mean return by protocol. subtitle: second title line.
    """
    family = task_set.family
    assert family.plane is not None and family.goal_positions is not None
    plane = list(family.plane)
    first: dict[str, Any] = {name: run[:, 0].cpu() for name, run in runs.items()}
    tasks = first[protocol]["task_id"]
    shown = torch.linspace(0, len(tasks) - 1, min(SHOWN_TASKS, len(tasks))).long()
    before = "Before: random actions" if protocol == "np" else "Before: the first collected episode"
    panels = {before: first[protocol]["first_path"][shown][..., plane]}
    best = max((name for name in means if name != "offline"), key=means.__getitem__, default=protocol)
    for name in dict.fromkeys((protocol, best)):
        panels[f"After {name}, mean return {means[name]:.2f}"] = first[name]["last_path"][shown][..., plane]
    figures.plot_trajectories(
        panels,
        family.goal_positions(task_set.parameters)[tasks[shown]],
        folder / "trajectories.png",
        goal_radius=family.goal_radius,
        labels=[f"task {task}" for task in tasks[shown].tolist()],
        subtitle=subtitle,
    )
