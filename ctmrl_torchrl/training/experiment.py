"""One experiment from configuration to summary: data, meta-training, meta-test, results."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from tensordict import TensorDict
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.agents import Agent, AgentCard
from ctmrl_torchrl.agents.card import plain_problem
from ctmrl_torchrl.envs import optimal_returns
from ctmrl_torchrl.evaluation.summary import build_summary, write_summary
from ctmrl_torchrl.training.build import (
    Experiment,
    build_experiment,
    make_logger,
    set_up_process,
    transition_key,
)
from ctmrl_torchrl.training.checkpoint import find_checkpoint, load_checkpoint
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.data import dataset_folder
from ctmrl_torchrl.training.identity import fingerprint, run_identity
from ctmrl_torchrl.training.metrics import MetricsLog
from ctmrl_torchrl.training.report import draw_figures
from ctmrl_torchrl.training.run_folder import check_run_dir, check_writable, drop_replaced, set_aside
from ctmrl_torchrl.training.schedule import phase_milestones
from ctmrl_torchrl.training.stacked import StackedTrainer
from ctmrl_torchrl.training.tester import protocol_result
from ctmrl_torchrl.training.validate import ConfigError, validate_config, validate_seeds

Runs = dict[str, dict[str, TensorDict]]


def run_experiment(config: ExperimentConfig, command: str | None = None) -> dict[str, Any]:
    """Train, meta-test and write ``summary.json``, ``metrics.csv``, ``config.yaml``, ``checkpoints/``,
    ``figures/``.

    Args:
        config: the whole run.
        command: the command line that describes it, recorded in the summary.

    Returns:
        the summary.
    """
    start = time.perf_counter()
    experiment = prepare(config)
    experiment.trainer.train()
    return conclude(experiment, start, command)


def run_seeds(configs: Sequence[ExperimentConfig], command: str | None = None) -> list[dict[str, Any]]:
    """Several runs that differ in their seeds (and run folders) alone, trained as one stacked computation.

    Args:
        configs: one per seed. command: as for :func:`run_experiment`.

    Returns:
        the summaries; every run folder is left as by a run of its own.

    Raises:
        ConfigError: if a configuration cannot be part of a stack.
    """
    start = time.perf_counter()
    validate_seeds(configs)
    for config in configs:  # all of them, before the first one writes
        check_before_building(config)
    set_up_process(configs[0].threads, configs[0].keep_memory)
    experiments = [build_experiment(config) for config in configs]
    trainers = [experiment.trainer for experiment in experiments]
    stack = StackedTrainer(trainers, [config.seed for config in configs])
    for experiment in experiments:
        open_run(experiment)
    stack.train()
    return [conclude(experiment, start, command) for experiment in experiments]


def check_before_building(config: ExperimentConfig) -> None:
    """Everything that can be refused before data are made or anything is written.

    Raises:
        ConfigError: for a value that is not allowed. CheckpointError: if ``resume`` cannot be resumed.
    """
    validate_config(config)
    data = dataset_folder(config.dataset, config.env, config.tasks)
    if config.resume is not None:
        load_checkpoint(find_checkpoint(config.resume), run_identity(config))
        if not data.exists():
            raise ConfigError(
                f"config field resume: the run {config.resume} needs its data, but there is no {data}; "
                "give dataset.root, dataset.seed or dataset.path as for that run."
            )
    if config.dataset.path is None and not data.exists():
        check_writable("dataset.root", Path(config.dataset.root))
    check_run_dir(config)


def prepare(config: ExperimentConfig) -> Experiment:
    """An experiment ready to be trained: checked, built, seeded, resumed if asked for, logging."""
    check_before_building(config)
    set_up_process(config.threads, config.keep_memory)
    experiment = build_experiment(config)
    open_run(experiment)
    return experiment


def open_run(experiment: Experiment) -> None:
    """Make the run folder, seed the process, resume if asked for, begin the log."""
    config, trainer, run_dir = experiment.config, experiment.trainer, experiment.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    if config.overwrite and config.resume is None:
        set_aside(run_dir)
    torch.manual_seed(config.seed)
    earlier_metrics = None
    if config.resume is not None:
        checkpoint = trainer.resume(config.resume)
        earlier_metrics = checkpoint.parent.parent / "metrics.csv"
    (run_dir / "config.yaml").write_text(yaml.safe_dump(asdict(config), sort_keys=False), encoding="utf-8")
    trainer.metrics = MetricsLog(
        run_dir / "metrics.csv",
        logger=make_logger(config.output.logger, run_dir, _log_name(run_dir, trainer.update_count)),
        keep_until=trainer.update_count if config.resume is not None else None,
        keep_from=earlier_metrics,
    )


def conclude(experiment: Experiment, start: float, command: str | None = None) -> dict[str, Any]:
    """The final meta-test of a trained experiment, its summary and figures; ``start`` by ``perf_counter``."""
    config, run_dir = experiment.config, experiment.run_dir
    runs = final_meta_test(experiment)
    wall_time_s = experiment.trainer.earlier_seconds + time.perf_counter() - start
    summary = summarize(experiment, runs, wall_time_s, command)
    write_summary(summary, run_dir / "summary.json")
    agent_of(experiment, summary).save(run_dir / "agent")
    if config.output.figures:
        draw_figures(
            experiment.task_set,
            experiment.dataset,
            runs,
            summary,
            experiment.parts,
            run_dir,
            milestones(experiment),
        )
    experiment.tester.close()
    if config.overwrite:
        drop_replaced(run_dir)
    torchrl_logger.info(f"results are in {run_dir}")
    return summary


def agent_of(experiment: Experiment, summary: dict[str, Any]) -> Agent:
    """The trained agent with its card; it shares its networks with the experiment."""
    config, loss = experiment.config, experiment.loss
    card = AgentCard(
        method=config.method,
        env=summary["env"],
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
    encoder, actor = (
        copy.deepcopy(loss.context_encoder),
        config.policy_loss.networks(experiment.problem, config.encoder.size(experiment.problem))[0],
    )
    loss.policy.actor_network_params.data.to_module(actor)
    return Agent(card, encoder.cpu(), copy.deepcopy(actor).cpu(), experiment.parts.candidates())


def milestones(experiment: Experiment) -> dict[str, float]:
    """Updates within the training at which something begins or ends, by name, in their order."""
    schedule = experiment.config.schedule
    moments = experiment.parts.milestones() | phase_milestones(schedule)
    return {name: moment for name, moment in moments.items() if 0 < moment < schedule.updates}


def _log_name(run_dir: Path, update: int) -> str:
    """A resumed run logs beside its first part, which cannot take back what followed the checkpoint."""
    return f"log-{run_dir.name}" if update == 0 else f"log-{run_dir.name}-from-{update}"


def final_meta_test(experiment: Experiment) -> Runs:
    """Every protocol on both splits with the final number of repeats."""
    settings, task_set = experiment.config.evaluation, experiment.task_set
    splits = {"test": task_set.test_ids, "train": task_set.train_ids}
    return {
        split: experiment.tester.run(task_ids, settings.final_repeats, settings.seed) if task_ids else {}
        for split, task_ids in splits.items()
    }


def summarize(
    experiment: Experiment, runs: Runs, wall_time_s: float, command: str | None = None
) -> dict[str, Any]:
    """The run's summary, see :func:`~ctmrl_torchrl.evaluation.summary.build_summary`."""
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
        random=task_set.family.random_return.get(config.tasks, {}),
        optimum=None
        if optima is None
        else {split: optima[ids].mean().item() for split, ids in splits.items()},
        behaviour={split: manifest.oracle.get(split) for split in splits} if manifest.oracle else None,
        extra={"random_episodes": random_episodes}
        | ({} if command is None else {"command": command})
        | experiment.parts.summary(),
    )
