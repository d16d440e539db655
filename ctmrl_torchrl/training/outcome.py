"""What a finished run leaves: its summary and its agent."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from tensordict import TensorDict

from ctmrl_torchrl.agents import Agent, AgentCard
from ctmrl_torchrl.agents.card import plain_problem
from ctmrl_torchrl.envs import optimal_returns
from ctmrl_torchrl.evaluation.summary import build_summary, package_versions
from ctmrl_torchrl.machine import device_name
from ctmrl_torchrl.training.actor import rebuilt_actor
from ctmrl_torchrl.training.build import Experiment, transition_key
from ctmrl_torchrl.training.identity import fingerprint
from ctmrl_torchrl.training.random_reference import random_reference
from ctmrl_torchrl.training.tester import protocol_result

#: ``{split: {protocol: TensorDict [tasks, repeats]}}``
Runs = dict[str, dict[str, TensorDict]]


def agent_of(experiment: Experiment, summary: dict[str, Any]) -> Agent:
    """The trained agent with its card and the contexts that protocol ``codes`` tried."""
    config, loss = experiment.config, experiment.loss
    card = AgentCard(
        method=config.method,
        env=summary["env"],
        tasks=experiment.task_set.preset,
        command=summary.get("command") or "",
        problem=plain_problem(experiment.problem),
        encoder=asdict(config.encoder),
        policy_loss=asdict(config.policy_loss),
        transition_key=transition_key(config.representation),
        horizon=experiment.task_set.family.horizon,
        episodes=config.evaluation.episodes,
        random_episodes=config.evaluation.random_episodes,
        data=fingerprint(experiment.dataset),
        returns={
            split: {name: result["mean"] for name, result in protocols.items()}
            for split, protocols in summary["returns"].items()
        },
        versions=summary["versions"],
    )
    encoder, actor = copy.deepcopy(loss.context_encoder), rebuilt_actor(config, experiment.problem, loss)
    candidates = experiment.tester.candidates().cpu()
    return Agent(card, encoder.cpu(), copy.deepcopy(actor).cpu(), candidates)


def summarize(
    experiment: Experiment, runs: Runs, wall_time_s: float, command: str | None = None
) -> dict[str, Any]:
    """Build the run's summary; see :func:`~ctmrl_torchrl.evaluation.summary.build_summary`."""
    config, task_set, manifest = experiment.config, experiment.task_set, experiment.dataset.manifest
    random_episodes = config.evaluation.random_episodes
    optima = optimal_returns(task_set) if task_set.family.has_optimum else None
    splits = {"test": list(task_set.test_ids), "train": list(task_set.train_ids)}
    return build_summary(
        env=manifest.env,
        method=config.method,
        policy_loss=config.policy_loss.label,
        preset=config.preset,
        seed=config.seed,
        updates=experiment.trainer.update_count,
        wall_time_s=wall_time_s,
        dataset={
            "tasks": task_set.preset,
            "recipe": manifest.recipe.get("name"),
            "seed": manifest.seeds.get("collection"),
            "counts": manifest.counts,
        },
        returns={
            split: {name: protocol_result(run, random_episodes) for name, run in protocols.items()}
            for split, protocols in runs.items()
        },
        random=None
        if config.held_out
        else random_reference(task_set, experiment.dataset, measure=bool(config.evaluation.protocols)),
        optimum=None
        if optima is None
        else {split: optima[ids].mean().item() for split, ids in splits.items()},
        behaviour=None
        if not manifest.oracle
        else {
            split: _behavior_return(manifest.oracle, split, ids if config.held_out else None)
            for split, ids in splits.items()
        },
        versions=package_versions() | {"device": device_name(experiment.device)},
        extra={"random_episodes": random_episodes, "comparison": config.comparison}
        | ({} if config.held_out is None else {"held_out": config.held_out})
        | ({} if command is None else {"command": command})
        | experiment.parts.summary(),
        with_paper=config.held_out is None,
    )


def _behavior_return(known: Mapping[str, Any], split: str, held_out: Sequence[int] | None) -> float | None:
    """The behavior's return on a split of the dataset, or on the tasks ``held_out`` of the run."""
    if held_out is None:
        return known.get(split)
    returns = known.get("task_returns") or []
    measured = known.get("task_ids") or range(len(returns))
    by_task = {task: value for task, value in zip(measured, returns, strict=False) if value is not None}
    values = [by_task[task] for task in held_out if task in by_task]
    return math.fsum(values) / len(values) if len(values) == len(held_out) else None
