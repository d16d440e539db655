"""Runs one experiment from configuration to summary: data, meta-training, meta-test, results."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl import storage
from ctmrl_torchrl.data.reading import read_manifest
from ctmrl_torchrl.evaluation.summary import write_summary
from ctmrl_torchrl.progress import plain_log, progress_bar
from ctmrl_torchrl.sealed import tensor_bytes
from ctmrl_torchrl.stopping import Stopped, signal_name, stop_signals
from ctmrl_torchrl.training.build import (
    Experiment,
    build_experiment,
    check_compile_device,
    resolve_device,
    set_up_process,
)
from ctmrl_torchrl.training.checkpoint import CheckpointError, find_checkpoint, load_checkpoint
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.data import dataset_folder
from ctmrl_torchrl.training.data_report import picture_or_warning
from ctmrl_torchrl.training.deterministic import check_deterministic, use_deterministic_algorithms
from ctmrl_torchrl.training.finite import require_finite
from ctmrl_torchrl.training.identity import run_identity
from ctmrl_torchrl.training.loggers import LOGGERS
from ctmrl_torchrl.training.memory import check_memory, memory_errors
from ctmrl_torchrl.training.metrics import MetricsLog
from ctmrl_torchrl.training.outcome import Runs, agent_of, summarize
from ctmrl_torchrl.training.report import draw_figures, log_pictures
from ctmrl_torchrl.training.run_folder import RunFolder, check_place, check_run_dir
from ctmrl_torchrl.training.run_record import is_there
from ctmrl_torchrl.training.schedule import phase_milestones
from ctmrl_torchrl.training.stacked import StackedTrainer
from ctmrl_torchrl.training.trainer import MetaTrainer
from ctmrl_torchrl.training.validate import (
    ConfigError,
    check_protocol_data,
    validate_config,
    validate_seeds,
)

#: generous estimate of the bytes of a run's figures, page, tables and logs
_BYTES_BESIDE = 6_000_000

#: writes a page about the finished run in a folder and returns its file
WritePage = Callable[[Path], Path]


class SeedsError(RuntimeError):
    """Some of the seeds that ran together failed. The results of the others are written."""


def run_experiment(
    config: ExperimentConfig, command: str | None = None, write_page: WritePage | None = None
) -> dict[str, Any]:
    """Train, meta-test and write ``summary.json``, ``metrics.csv``, ``config.yaml``, ``checkpoints/``,
    ``figures/``.

    Args:
        config: the complete configuration.
        command: the command line to record in the summary.
        write_page: called with the run folder at the end, such as
            :func:`~ctmrl_torchrl.studies.write_run_page`; an error in it is a warning.

    Returns:
        the summary.

    Raises:
        Stopped: after SIGTERM or Ctrl-C. The same call goes on from the checkpoint.
    """
    start = time.perf_counter()
    with stop_signals(), plain_log(), memory_errors(config), closing(_Begun()) as begun:
        experiment = begun.build(going_on(config))
        open_run(experiment)
        experiment.trainer.train()
        return conclude(experiment, start, command, write_page)


def run_seeds(
    configs: Sequence[ExperimentConfig], command: str | None = None, write_page: WritePage | None = None
) -> list[dict[str, Any]]:
    """Run several experiments that differ only in seed and run folder, trained as one stacked computation.

    Args:
        configs: one per seed. command, write_page: as for :func:`run_experiment`.

    Returns:
        the summaries. Every run folder has the same contents as after a separate run.

    Raises:
        ConfigError: if a configuration cannot be part of a stack.
        SeedsError: if a seed failed, after the results of the others are written.
    """
    start = time.perf_counter()
    validate_seeds(configs)
    for config in configs:  # check all of them before the first one writes
        check_before_building(config)
    with stop_signals(), plain_log(), memory_errors(configs[0]), closing(_Begun()) as begun:
        experiments = [begun.build(config) for config in configs]
        stack = StackedTrainer(
            [experiment.trainer for experiment in experiments], [config.seed for config in configs]
        )
        for experiment in experiments:
            open_run(experiment)
        stack.train()
        trained = time.perf_counter() - start
        summaries, failures = [], dict(stack.failures)
        for row, experiment in enumerate(experiments):
            if row not in failures:
                try:  # each seed's time is that of the training and of its own meta-test
                    own_start = time.perf_counter() - trained
                    summaries.append(conclude(experiment, own_start, command, write_page))
                except Stopped as stopped:
                    raise _seeds_stopped(stopped, experiments[row:]) from None
                except Exception as error:
                    failures[row] = error
    if failures:
        told = "; ".join(f"seed {configs[row].seed}: {error}" for row, error in failures.items())
        raise SeedsError(
            f"{len(failures)} of {len(configs)} seeds failed ({told}). The results of the others are in "
            "their run folders."
        ) from next(iter(failures.values()))
    return summaries


class _Begun:
    """Release the run folders and environments of experiments on exit, even after an error."""

    def __init__(self) -> None:
        self.experiments: list[Experiment] = []

    def build(self, config: ExperimentConfig) -> Experiment:
        self.experiments.append(_build(config))
        return self.experiments[-1]

    def close(self) -> None:
        for experiment in self.experiments:
            if experiment.folder is not None:
                experiment.folder.release()
            experiment.tester.close()
            if experiment.trainer.metrics is not None:
                experiment.trainer.metrics.close()


def going_on(config: ExperimentConfig) -> ExperimentConfig:
    """The configuration that goes on with an unfinished run of the same settings in its folder, if one is there.

    ``overwrite=true`` starts anew. A run of other settings is left to :func:`check_run_dir`, which refuses it.
    """
    if config.resume is not None or config.overwrite:
        return config
    try:
        run_dir = storage.expanded(config.run_dir)
        if is_there(run_dir / "summary.json"):
            return config
        load_checkpoint(run_dir / "checkpoints" / "last.pt", run_identity(config))
    except (CheckpointError, OSError):  # the folder is checked later
        return config
    return replace(config, resume=str(run_dir))


def check_before_building(config: ExperimentConfig) -> Path:
    """Run all checks that need no data, before anything is written, and return the run folder.

    Raises:
        ConfigError: for a value that is not allowed. CheckpointError: if ``resume`` cannot be resumed.
    """
    validate_config(config)
    check_protocol_data(config)
    check_machine(config)
    data = dataset_folder(config.dataset, config.env, config.tasks)
    if config.resume is not None:
        load_checkpoint(find_checkpoint(config.resume), run_identity(config))
        if not data.exists():
            raise ConfigError(
                f"config field resume: the run {config.resume} needs its data, but there is no {data}; "
                "give dataset.root, dataset.seed or dataset.path as for that run."
            )
    return check_run_dir(config)


def check_machine(config: ExperimentConfig) -> None:
    """Check that this machine has the device, the memory and the data that a configuration asks for.

    Raises:
        ConfigError: naming the field. DatasetError: if the given dataset is not one.
    """
    device = resolve_device(config.device)
    check_compile_device(config.compile, device)
    if config.deterministic:
        check_deterministic(device, config.threads)
    if config.dataset.path is None:
        check_place("dataset.root", config.dataset.root)
    else:
        read_manifest(dataset_folder(config.dataset, config.env, config.tasks))
    check_memory(config, device)


def prepare(config: ExperimentConfig) -> Experiment:
    """Prepare an experiment for training: check, build, seed, resume if requested, start logging.

    The experiment holds the run folder until ``experiment.folder.release()``.
    """
    experiment = _build(config)
    open_run(experiment)
    return experiment


def _build(config: ExperimentConfig) -> Experiment:
    """Check the configuration, lock the run folder and build; nothing is written yet."""
    folder = RunFolder(check_before_building(config))
    try:
        set_up_process(config.threads, config.keep_memory)
        use_deterministic_algorithms(config.deterministic)
        experiment = build_experiment(config)
        experiment.folder, experiment.run_dir = folder, folder.path
        experiment.trainer.checkpoint_path = folder.path / "checkpoints" / "last.pt"
        _check_space(experiment)
    except BaseException:
        folder.release()
        raise
    return experiment


def open_run(experiment: Experiment) -> None:
    """Seed the process, resume if requested, prepare the run folder and start its records."""
    config, trainer, folder = experiment.config, experiment.trainer, experiment.folder
    assert folder is not None
    try:
        torch.manual_seed(config.seed)
        checkpoint = None if config.resume is None else trainer.resume(config.resume)
        folder.begin(config)
        _begin_records(experiment, checkpoint)
    except BaseException:
        folder.release()
        raise


def _check_space(experiment: Experiment) -> None:
    """Check that an old checkpoint, a new checkpoint and the figures fit on the disk."""
    loss = experiment.trainer.loss
    size = tensor_bytes(loss.state_dict()) + 2 * tensor_bytes(dict(loss.named_parameters()))
    try:
        storage.require_space(experiment.run_dir, 2 * size + _BYTES_BESIDE)
    except storage.StorageError as error:
        raise ConfigError(f"config field run_dir: {error}.") from error


def _begin_records(experiment: Experiment, checkpoint: Path | None) -> None:
    """Start ``config.yaml`` and the logs. A resumed run keeps the log rows of its earlier sessions."""
    config, trainer, folder = experiment.config, experiment.trainer, experiment.folder
    assert folder is not None
    described = yaml.safe_dump(asdict(config), sort_keys=False)
    storage.atomic_write_text(folder.path / "config.yaml", described)
    name = config.output.logger
    logs = "" if name == "none" else folder.log_folder(_log_name(folder.path, trainer))
    logger = LOGGERS.get(name).open(folder.path, logs)
    logger.configuration(asdict(config))
    trainer.metrics = MetricsLog(
        folder.path / "metrics.csv",
        logger=logger,
        keep_until=trainer.update_count if checkpoint is not None else None,
        keep_from=None if checkpoint is None else checkpoint.parent.parent / "metrics.csv",
    )


def conclude(
    experiment: Experiment, start: float, command: str | None = None, write_page: WritePage | None = None
) -> dict[str, Any]:
    """Run the final meta-test and write summary, figures and page; ``start`` is a ``perf_counter`` time.

    A figure that cannot be drawn or a page that cannot be written causes a warning only.
    """
    config, run_dir, folder = experiment.config, experiment.run_dir, experiment.folder
    assert folder is not None
    try:
        runs = final_meta_test(experiment)
        wall_time_s = experiment.trainer.earlier_seconds + time.perf_counter() - start
        summary = summarize(experiment, runs, wall_time_s, command)
        agent_of(experiment, summary).save(
            run_dir / "agent", overwrite=True
        )  # the record says whose the files are
        write_summary(summary, run_dir / "summary.json")
        if config.output.figures:
            with folder.pictures() as place:
                draw_figures(
                    experiment.task_set,
                    experiment.dataset,
                    runs,
                    summary,
                    experiment.loss,
                    experiment.parts,
                    run_dir / "metrics.csv",
                    milestones(experiment),
                    place,
                )
                metrics = experiment.trainer.metrics
                if metrics is not None:
                    log_pictures(metrics.logger, place, summary["updates"])
        first = _first_to_see(run_dir)
        if write_page is not None:
            with picture_or_warning("of the run", "page"):
                page = write_page(run_dir)
                folder.take(page)
                first = page.name
    except Stopped as stopped:
        raise Stopped(
            stopped.number,
            f"stopped by {signal_name(stopped.number)} after the training, in the final meta-test\n"
            f"Continue with the same command, or with resume={run_dir}",
        ) from None
    finally:
        experiment.tester.close()
    folder.finish()
    torchrl_logger.info(f"results are in {run_dir}" + (f"; see {first} first" if first else ""))
    return summary


def _seeds_stopped(stopped: Stopped, left: Sequence[Experiment]) -> Stopped:
    """What to do after a stop in the meta-test of stacked seeds, which cannot go on together."""
    what, folders = str(stopped).splitlines()[0], ", ".join(str(each.run_dir) for each in left)
    return Stopped(
        stopped.number,
        f"{what}\nContinue each seed by itself (seed=N instead of seeds=) with resume= {folders}",
    )


def _first_to_see(run_dir: Path) -> str:
    """The figure to look at first; empty if there is none."""
    names = (f"figures/{name}.png" for name in ("adaptation", "learning"))
    return next((name for name in names if (run_dir / name).exists()), "")


def milestones(experiment: Experiment) -> dict[str, float]:
    """Updates at which a phase begins or ends, by name, in order."""
    schedule = experiment.config.schedule
    moments = experiment.parts.milestones() | phase_milestones(schedule)
    return {name: moment for name, moment in moments.items() if 0 < moment < schedule.updates}


def _log_name(run_dir: Path, trainer: MetaTrainer) -> str:
    """The folder for logs. A resumed run uses a new one, because earlier log events cannot be removed."""
    update = trainer.update_count
    return f"log-{run_dir.name}" if update == 0 else f"log-{run_dir.name}-from-{update}"


def final_meta_test(experiment: Experiment) -> Runs:
    """Run every protocol on both splits with the final number of repeats."""
    settings, task_set = experiment.config.evaluation, experiment.task_set
    splits = {"test": task_set.test_ids, "train": task_set.train_ids}
    total = len(settings.protocols) * sum(bool(ids) for ids in splits.values())
    shown = experiment.config.output.progress
    with progress_bar(total, "final meta-test", unit="protocols", shown=shown) as bar:
        runs = {
            split: experiment.tester.run(ids, settings.final_repeats, settings.seed, bar) if ids else {}
            for split, ids in splits.items()
        }
    finite = {
        f"{split} return under {name}": bool(run["returns"].isfinite().all())
        for split, protocols in runs.items()
        for name, run in protocols.items()
    }
    require_finite(finite, experiment.trainer.update_count)
    return runs
