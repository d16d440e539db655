"""From a configuration to the parts of an experiment."""

from __future__ import annotations

from pathlib import Path

import torch
from tensordict import TensorDictBase
from torch import nn
from torchrl._utils import logger as torchrl_logger
from torchrl.objectives import SoftUpdate
from torchrl.record.loggers import Logger, get_logger

from ctmrl_torchrl.data import (
    ContextDraw,
    DatasetError,
    MetaReplayBuffer,
    TaskDataset,
    TaskSampler,
    collect_task_dataset,
    get_recipe,
)
from ctmrl_torchrl.envs import FAMILIES, TaskSet, make_task_set
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.training.config import ContextConfig, ExperimentConfig
from ctmrl_torchrl.training.heap import keep_freed_memory
from ctmrl_torchrl.training.validate import ConfigError


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: if there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()  # a device that holds no data, like meta, refuses this
    except (AssertionError, RuntimeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"config field device: got {name!r}, allowed is auto, cpu, or an accelerator of this machine "
            f"such as cuda or cuda:0 ({reason})."
        ) from error
    return device


def set_up_process(config: ExperimentConfig) -> None:
    """Threads and heap, for the whole process."""
    torch.set_num_threads(config.threads)
    if config.keep_memory:
        keep_freed_memory()


def dataset_folder(config: ExperimentConfig) -> Path:
    """Where the run's dataset is, or will be made."""
    if config.dataset.path is not None:
        return Path(config.dataset.path)
    name = f"{config.env}-{config.tasks}-{config.dataset.recipe}-seed{config.dataset.seed}"
    return Path(config.dataset.root) / name


def obtain_dataset(config: ExperimentConfig) -> TaskDataset:
    """Load the dataset, making it first where none has been made.

    Raises:
        DatasetError: if a given path has no valid dataset, or one of another environment or task set.
    """
    task_set = make_task_set(config.env, config.tasks)
    if config.dataset.path is not None:
        dataset = TaskDataset.load(config.dataset.path, verify=config.dataset.verify)
    else:
        path = dataset_folder(config)
        found = path.exists()
        dataset = (
            TaskDataset.load(path, verify=config.dataset.verify) if found else _make_dataset(config, path)
        )
        _check_recipe(dataset, config.dataset.recipe)
    check_dataset(dataset, task_set)
    return dataset


def _make_dataset(config: ExperimentConfig, path: Path) -> TaskDataset:
    torchrl_logger.info(f"making the offline dataset {path} (once)")
    try:
        return collect_task_dataset(
            config.env,
            preset=config.tasks,
            recipe=config.dataset.recipe,
            seed=config.dataset.seed,
            path=path,
            device="cpu",
            progress=config.output.progress,
        )
    except DatasetError:
        if not path.exists():
            raise
        # Another run has made the same dataset in the meantime.
        return TaskDataset.load(path)


def _check_recipe(dataset: TaskDataset, name: str) -> None:
    """A cached dataset must come from the recipe as it is today, not from an earlier version of that name."""
    wanted = get_recipe(name, dataset.manifest.env).to_dict()
    changed = sorted(field for field, value in wanted.items() if dataset.manifest.recipe.get(field) != value)
    if changed:
        raise DatasetError(
            f"{dataset.path} was made with another version of the recipe {name!r} (different: "
            f"{', '.join(changed)}); move that folder away to make the data again, or use it knowingly with "
            f"dataset.path={dataset.path}."
        )


def check_dataset(dataset: TaskDataset, task_set: TaskSet) -> None:
    """Make sure that a dataset is of this environment and these tasks.

    Raises:
        DatasetError: saying what is different, and what to set instead.
    """
    manifest, place = dataset.manifest, dataset.path or "the dataset in memory"
    if manifest.env != task_set.name:
        known = f"set env={manifest.env} or" if manifest.env in FAMILIES else "give"
        raise DatasetError(
            f"{place} holds data of env={manifest.env}, but this run has env={task_set.name}; "
            f"{known} another dataset.path."
        )
    found = torch.as_tensor(manifest.tasks["parameters"], dtype=torch.float64)
    if found.shape != task_set.parameters.shape or not torch.allclose(found, task_set.parameters.double()):
        raise DatasetError(
            f"{place} holds other tasks (preset {manifest.preset!r}, {found.shape[0]} tasks) than this run's "
            f"tasks={task_set.preset} ({task_set.n_tasks} tasks); set tasks={manifest.preset} or another "
            "dataset.path."
        )
    splits = {"train_ids": task_set.train_ids, "test_ids": task_set.test_ids}
    for name, ids in splits.items():
        if sorted(getattr(manifest, name)) != sorted(ids):
            raise DatasetError(
                f"{place} has another split than this run's tasks={task_set.preset}: its {name} are "
                f"{sorted(getattr(manifest, name))}, the run's are {sorted(ids)}, so that test tasks "
                "could be trained on; write the run's split into the manifest (TaskSet.to_dict())."
            )
    family = task_set.family
    sizes = {"observation": family.observation_dim, "action": family.action_dim, family.return_key: 1}
    for key, size in sizes.items():
        values = dataset.transitions.get(key, None)
        if values is None or values.shape[-1] != size:
            given = "does not have it" if values is None else f"has {values.shape[-1]}"
            raise DatasetError(
                f"{place}: {manifest.env} needs {key!r} with {size} feature(s), the dataset {given}."
            )


def make_context_draw(config: ContextConfig) -> ContextDraw:
    """The configured way of drawing contexts."""
    return ContextDraw(
        kind=config.kind,
        length=config.length,
        trajectories=tuple(config.trajectories),
        behaviours=None if config.behaviours is None else tuple(config.behaviours),
        near_random_fraction=config.near_random_fraction,
        near_random_snapshots=config.near_random_snapshots,
    )


def make_problem(task_set: TaskSet, dataset: TaskDataset) -> Problem:
    """Sizes from the environment, statistics from the training tasks."""
    family = task_set.family
    return Problem(
        observation_dim=family.observation_dim,
        action_dim=family.action_dim,
        discount=family.discount,
        codes=family.codes,
        reward_key=family.return_key,
        context_next_observation=family.context_next_observation,
        statistics=dataset.statistics(task_set.train_ids),
    )


def make_loss(config: ExperimentConfig, problem: Problem) -> MetaLoss:
    """Encoder, representation loss and policy loss; ``config.seed`` decides their initial parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        transition_key = "transition_contexts" if config.representation.uses_transition_contexts else None
        encoder = config.encoder.build(problem, transition_key)
        representation = config.representation.build(problem, config.encoder.context_dim)
        policy = config.policy_loss.build(problem, config.encoder.context_dim)
    return MetaLoss(encoder, representation, policy)


def make_optimiser(config: ExperimentConfig, loss: MetaLoss) -> torch.optim.Optimizer:
    """Adam with a representation and a policy group.

    On a GPU it never waits for the host; its rates are tensors there, which a captured update reads anew.
    """
    groups = {
        "representation": nn.ModuleList([loss.context_encoder, loss.representation]),
        "policy": loss.policy,
    }
    rates = {"representation": config.optimiser.representation_rate, "policy": config.optimiser.policy_rate}
    device = next(loss.parameters()).device
    if device.type == "cuda":
        rates = {name: torch.tensor(rate, device=device) for name, rate in rates.items()}
    return torch.optim.Adam(
        [
            {"params": list(module.parameters()), "lr": rates[name], "name": name}
            for name, module in groups.items()
        ],
        fused=True,
        capturable=device.type == "cuda",
    )


def make_logger(kind: str, run_dir: Path, name: str) -> Logger | None:
    """One of TorchRL's loggers, writing below ``run_dir``; None for ``"none"``."""
    return None if kind == "none" else get_logger(kind, str(run_dir), name)


def make_target_updater(config: ExperimentConfig, loss: MetaLoss) -> SoftUpdate:
    """Moving targets of the policy loss."""
    return SoftUpdate(loss.policy, tau=config.policy_loss.target_rate)


def make_buffer(
    config: ExperimentConfig, dataset: TaskDataset, task_set: TaskSet, generator: torch.Generator
) -> MetaReplayBuffer:
    """The buffer whose samples are training meta-batches."""
    sampler = TaskSampler(
        dataset,
        task_ids=task_set.train_ids,
        tasks_per_batch=config.batch.tasks,
        transitions_per_task=config.batch.transitions,
        context=make_context_draw(config.context),
        num_contexts=2,
        repeat_tasks=config.batch.repeat_tasks,
    )
    return dataset.replay_buffer(sampler, generator=generator)


class AllTaskContexts:
    """Draws one context of every training task, for K-means.

    Args:
        dataset, task_set, config: where from, which tasks, how.
        generator (torch.Generator): of the draws; part of checkpoints.
    """

    def __init__(
        self, config: ExperimentConfig, dataset: TaskDataset, task_set: TaskSet, generator: torch.Generator
    ) -> None:
        sampler = TaskSampler(
            dataset,
            task_ids=task_set.train_ids,
            tasks_per_batch=None,
            transitions_per_task=1,
            context=make_context_draw(config.context),
            num_contexts=1,
        )
        self.buffer = dataset.replay_buffer(sampler, generator=generator)

    def __call__(self) -> TensorDictBase:
        """A meta-batch of all training tasks."""
        return self.buffer.sample()
