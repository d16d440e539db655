"""One experiment from configuration to summary: data, meta-training, meta-test, results."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tensordict import TensorDict
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.envs import TaskSet, make_task_set, optimal_returns
from ctmrl_torchrl.evaluation.summary import build_summary, write_summary
from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.training import build
from ctmrl_torchrl.training.checkpoint import find_checkpoint, load_checkpoint
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.meta_test import MetaTester, protocol_result
from ctmrl_torchrl.training.metrics import MetricsLog
from ctmrl_torchrl.training.report import draw_figures
from ctmrl_torchrl.training.run_folder import check_run_dir, check_writable, drop_replaced, set_aside
from ctmrl_torchrl.training.schedule import CodebookSchedule, LearningRates, beginnings
from ctmrl_torchrl.training.stacked import StackedTrainer
from ctmrl_torchrl.training.trainer import MetaTrainer
from ctmrl_torchrl.training.validate import ConfigError, validate_config, validate_seeds


@dataclass
class Experiment:
    """The parts of one run, built and wired but not yet run; see :func:`build_experiment`."""

    config: ExperimentConfig
    task_set: TaskSet
    dataset: TaskDataset
    loss: MetaLoss
    trainer: MetaTrainer
    tester: MetaTester
    run_dir: Path
    device: torch.device


def codebook_of(loss: MetaLoss) -> Codebook | None:
    """The codebook of the representation loss, if it has one."""
    return getattr(loss.representation, "codebook", None)


def build_experiment(config: ExperimentConfig) -> Experiment:
    """Validate the configuration, obtain the data and build every part."""
    validate_config(config)
    device = build.resolve_device(config.device)
    task_set = make_task_set(config.env, config.tasks)
    dataset = build.obtain_dataset(config)
    loss = build.make_loss(config, build.make_problem(task_set, dataset)).to(device)
    optimiser = build.make_optimiser(config, loss)
    sampling = torch.Generator().manual_seed(config.seed)
    hooks: list[Any] = [LearningRates(optimiser, loss, config.optimiser, config.schedule)]
    codebook = codebook_of(loss)
    if codebook is not None:
        # One generator for both buffers: its state in the checkpoint then covers all sampling.
        collect = build.AllTaskContexts(config, dataset, task_set, sampling)
        hooks.append(CodebookSchedule(loss, collect, config.schedule, seed=config.seed))
    tester = MetaTester(
        task_set,
        dataset,
        ActingPolicy(loss.policy),
        loss.context_encoder,
        context_dim=config.encoder.context_dim,
        codes=None if codebook is None else codebook.codes,
        config=config.evaluation,
        device=device,
    )
    run_dir = Path(config.run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    trainer = MetaTrainer(
        loss,
        build.make_buffer(config, dataset, task_set, sampling),
        optimiser,
        build.make_target_updater(config, loss),
        updates=config.schedule.updates,
        hooks=hooks,
        evaluate=lambda update: tester.quick_numbers(config.evaluation.seed),
        checkpoint_path=run_dir / "checkpoints" / "last.pt",
        identity=run_identity(config) | {"dataset": _fingerprint(dataset)},
        log_every=config.output.log_every,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.output.checkpoint_every,
        device=device,
        compile=config.compile,
        progress=config.output.progress,
    )
    return Experiment(config, task_set, dataset, loss, trainer, tester, run_dir, device)


def run_identity(config: ExperimentConfig) -> dict[str, Any]:
    """What a checkpoint must share with a run that resumes it: every field that training depends on."""
    identity = {name: getattr(config, name) for name in ("env", "tasks", "method", "seed", "compile")}
    for section in ("context", "batch", "encoder", "representation", "policy_loss", "optimiser", "schedule"):
        values = asdict(getattr(config, section))
        identity |= {f"{section}.{name}": value for name, value in values.items()}
    return identity


def _check_before_building(config: ExperimentConfig) -> None:
    """Everything that can be refused before data are made or anything is written."""
    validate_config(config)
    if config.resume is not None:
        load_checkpoint(find_checkpoint(config.resume), run_identity(config))
        data = build.dataset_folder(config)
        if not data.exists():
            raise ConfigError(
                f"config field resume: the run {config.resume} needs its data, but there is no {data}; "
                "give dataset.root, dataset.seed or dataset.path as for that run."
            )
    if config.dataset.path is None and not build.dataset_folder(config).exists():
        check_writable("dataset.root", Path(config.dataset.root))
    check_run_dir(config)


def _fingerprint(dataset: TaskDataset) -> str:
    """Short text that tells datasets apart, from the checksums of their files."""
    checksums = json.dumps(dataset.manifest.checksums, sort_keys=True)
    return hashlib.sha256(checksums.encode()).hexdigest()[:12]


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
        _check_before_building(config)
    experiments = [prepare(config) for config in configs]
    trainers = [experiment.trainer for experiment in experiments]
    StackedTrainer(trainers, [config.seed for config in configs]).train()
    return [conclude(experiment, start, command) for experiment in experiments]


def prepare(config: ExperimentConfig) -> Experiment:
    """An experiment ready to be trained: checked, built, seeded, resumed if asked for, logging."""
    _check_before_building(config)
    build.set_up_process(config)
    experiment = build_experiment(config)
    trainer, run_dir = experiment.trainer, experiment.run_dir
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
        logger=build.make_logger(config.output.logger, run_dir, _log_name(run_dir, trainer.update_count)),
        keep_until=trainer.update_count if config.resume is not None else None,
        keep_from=earlier_metrics,
    )
    return experiment


def conclude(experiment: Experiment, start: float, command: str | None = None) -> dict[str, Any]:
    """The final meta-test of a trained experiment, its summary and figures; ``start`` by ``perf_counter``."""
    run_dir = experiment.run_dir
    runs = final_meta_test(experiment)
    wall_time_s = experiment.trainer.earlier_seconds + time.perf_counter() - start
    summary = summarise(experiment, runs, wall_time_s, command)
    write_summary(summary, run_dir / "summary.json")
    codebook = codebook_of(experiment.loss)
    if experiment.config.output.figures:
        draw_figures(
            experiment.task_set,
            experiment.dataset,
            runs,
            summary,
            codebook,
            run_dir,
            beginnings(experiment.config.schedule, codes=codebook is not None),
        )
    if experiment.config.overwrite:
        drop_replaced(run_dir)
    torchrl_logger.info(f"results are in {run_dir}")
    return summary


def _log_name(run_dir: Path, update: int) -> str:
    """A resumed run logs beside its first part, which cannot take back what followed the checkpoint."""
    return f"log-{run_dir.name}" if update == 0 else f"log-{run_dir.name}-from-{update}"


def final_meta_test(experiment: Experiment) -> dict[str, dict[str, TensorDict]]:
    """Every protocol on both splits with the final number of repeats."""
    settings, task_set = experiment.config.evaluation, experiment.task_set
    splits = {"test": task_set.test_ids, "train": task_set.train_ids}
    return {
        split: experiment.tester.run(task_ids, settings.final_repeats, settings.seed)
        for split, task_ids in splits.items()
    }


def summarise(
    experiment: Experiment,
    runs: dict[str, dict[str, TensorDict]],
    wall_time_s: float,
    command: str | None = None,
) -> dict[str, Any]:
    """The run's summary, see :func:`~ctmrl_torchrl.evaluation.summary.build_summary`."""
    config, task_set, manifest = experiment.config, experiment.task_set, experiment.dataset.manifest
    codebook = codebook_of(experiment.loss)
    optima = optimal_returns(task_set) if task_set.family.has_optimum else None
    splits = {"test": list(task_set.test_ids), "train": list(task_set.train_ids)}
    return build_summary(
        env=config.env,
        method=config.method,
        policy_loss=config.policy_loss.label,
        preset=config.preset,
        seed=config.seed,
        updates=experiment.trainer.update_count,
        wall_time_s=wall_time_s,
        dataset={
            "tasks": config.tasks,
            "recipe": manifest.recipe.get("name"),
            "seed": manifest.seeds.get("collection"),
            "counts": manifest.counts,
        },
        returns={
            split: {
                name: protocol_result(run, config.evaluation.random_episodes)
                for name, run in protocols.items()
            }
            for split, protocols in runs.items()
        },
        random=task_set.family.random_return.get(config.tasks, {}),
        optimum=None
        if optima is None
        else {split: optima[ids].mean().item() for split, ids in splits.items()},
        oracle=manifest.oracle if optima is None else None,
        codebook=None
        if codebook is None
        else {"perplexity": codebook.perplexity().item(), "dead_codes": int(codebook.dead_codes())},
        extra={"random_episodes": config.evaluation.random_episodes}
        | ({} if command is None else {"command": command}),
    )
