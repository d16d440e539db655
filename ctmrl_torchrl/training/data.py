"""Finds or collects the offline data of a run and checks them against the environment and its tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import torch
from tensordict import NestedKey, TensorDictBase
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data import (
    ContextDraw,
    DatasetError,
    MetaReplayBuffer,
    TaskDataset,
    TaskSampler,
    collect_task_dataset,
    get_recipe,
)
from ctmrl_torchrl.envs import FAMILIES, NO_SIMULATOR, EnvFamily, TaskSet, make_task_set
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.registry import nearest
from ctmrl_torchrl.storage import expanded
from ctmrl_torchrl.training.config import DATA_ALONE, BatchConfig, DatasetConfig


def dataset_folder(settings: DatasetConfig, env: str, tasks: str) -> Path:
    """The path of the run's dataset, whether or not it exists yet."""
    if settings.path is not None:
        return expanded(settings.path)
    name = f"{env}-{tasks}-{settings.recipe}-seed{settings.seed}"
    return expanded(settings.root) / name


def obtain_data(
    settings: DatasetConfig, env: str, tasks: str, *, progress: bool = False
) -> tuple[TaskDataset, TaskSet]:
    """Load the dataset and its tasks. The dataset is collected first if it does not exist.

    Args:
        settings: the configuration's section.
        env (str): a registered family, or ``dataset`` to take the tasks from the dataset.
        tasks (str): preset of the family's task set.
        progress (bool): show progress bars.

    Raises:
        DatasetError: if the given path has no valid dataset, its environment or task set differs, or a training
            task has no data.
    """
    path = dataset_folder(settings, env, tasks)
    if env == DATA_ALONE:
        dataset = TaskDataset.load(path, verify=cast(Any, settings.verify))
        task_set = tasks_of_dataset(dataset)
        _check_training_data(dataset, task_set)
        return dataset, task_set
    task_set = make_task_set(env, tasks)
    if settings.path is not None or path.exists():
        dataset = TaskDataset.load(path, verify=cast(Any, settings.verify))
    else:
        dataset = _make_dataset(settings, env, tasks, path, progress)
    if settings.path is None:
        _check_recipe(dataset, settings.recipe)
    check_dataset(dataset, task_set)
    _check_training_data(dataset, task_set)
    _warn_of_changed_source(dataset, task_set, settings)
    return dataset, task_set


def tasks_of_dataset(dataset: TaskDataset) -> TaskSet:
    """The tasks that a dataset's manifest names, as a family without an environment.

    Examples:
        >>> from ctmrl_torchrl.data import CollectionRecipe
        >>> recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
        >>> tasks = tasks_of_dataset(collect_task_dataset("point_robot", recipe=recipe))
        >>> tasks.name, tasks.n_tasks
        ('point_robot', 40)

    Raises:
        DatasetError: if these tasks cannot be trained on, e.g. because none is for training.
    """
    manifest = dataset.manifest
    parameters = manifest.tasks["parameters"]
    if not manifest.tasks["parameter_names"]:  # tasks identified only by their number
        parameters = [[float(task)] for task in range(manifest.n_tasks)]
    try:
        family = _family_of_dataset(dataset)
        rows = torch.as_tensor(parameters, dtype=torch.float64)
        return TaskSet(family, manifest.preset, rows, manifest.train_ids, manifest.test_ids)
    except ValueError as error:
        raise DatasetError(f"{dataset.path or 'the dataset'}: its tasks cannot be used: {error}") from error


def _family_of_dataset(dataset: TaskDataset) -> EnvFamily:
    """The registered family if the dataset belongs to one; otherwise a family inferred from the data."""
    manifest, sizes = dataset.manifest, dataset.sizes()
    names = tuple(manifest.tasks["parameter_names"])
    if manifest.env in FAMILIES and manifest.test_ids:
        family = FAMILIES.get(manifest.env)
        known = (family.parameter_names, family.observation_dim, family.action_dim)
        if known == (
            names,
            sizes.observation_dim,
            sizes.action_dim,
        ) and family.return_key in dataset.transitions.keys(include_nested=True):
            return family
    return EnvFamily(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "-", manifest.env).strip("_.-")[:100] or DATA_ALONE,
        observation_dim=sizes.observation_dim,
        action_dim=sizes.action_dim,
        horizon=sizes.horizon,
        context_next_observation=True,
        return_key=sizes.return_key,
        discount=0.99 if sizes.discount is None else sizes.discount,
        parameter_names=names or ("task",),
        sample_parameters=no_environment,
        env_builder=no_environment,
        simulator=NO_SIMULATOR,
    )


def no_environment(*args: Any, **options: Any) -> NoReturn:
    """Placeholder for the environment of a dataset without one.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "This family has data but no environment, so episodes cannot be collected. Register a family of that "
        "name (ctmrl_torchrl.envs.register_family), or disable meta-tests (evaluation.protocols=[])."
    )


def _make_dataset(settings: DatasetConfig, env: str, tasks: str, path: Path, progress: bool) -> TaskDataset:
    torchrl_logger.info(f"collecting the offline dataset {path} (only once)")
    try:
        return collect_task_dataset(
            env,
            preset=tasks,
            recipe=settings.recipe,
            seed=settings.seed,
            path=path,
            device="cpu",
            progress=progress,
            collector=settings.collector,
        )
    except DatasetError:
        if not path.exists():
            raise
        # Another run has collected the same dataset in the meantime.
        return TaskDataset.load(path)


def _check_recipe(dataset: TaskDataset, name: str) -> None:
    """Require that a cached dataset comes from the current version of the recipe."""
    wanted = get_recipe(name, dataset.manifest.env).to_dict()
    changed = sorted(field for field, value in wanted.items() if dataset.manifest.recipe.get(field) != value)
    if changed:
        raise DatasetError(
            f"{dataset.path} was collected with another version of the recipe {name!r} (different: "
            f"{', '.join(changed)}); move that folder away to collect the data again, or use it anyway with "
            f"dataset.path={dataset.path}."
        )


def _warn_of_changed_source(dataset: TaskDataset, task_set: TaskSet, settings: DatasetConfig) -> None:
    """Say that the user's code of a family is not the one that its data were collected with."""
    before, now = dataset.manifest.source, task_set.family.source_digests()
    if not before or not now or sorted(before.values()) == sorted(now.values()):
        return
    changed = [name for name, digest in now.items() if digest not in before.values()]
    gone = [name for name, digest in before.items() if digest not in now.values()]
    mend = (
        "move that folder away, so that the data are collected again, or set another dataset.root"
        if settings.path is None
        else "collect the data again and give their folder as dataset.path"
    )
    torchrl_logger.warning(
        f"{dataset.path}: the code that defines env={task_set.name} ({', '.join(changed or gone)}) has changed "
        "since this dataset was collected, so its transitions may not be those of the present simulation. If the "
        f"simulation changed, {mend}. If it did not, go on (comments and layout are not counted)."
    )


def check_dataset(dataset: TaskDataset, task_set: TaskSet) -> None:
    """Check that a dataset belongs to this environment and these tasks.

    Raises:
        DatasetError: with the difference and the setting that resolves it.
    """
    manifest, place = dataset.manifest, dataset.path or "the dataset in memory"
    if manifest.env != task_set.name:
        known = f"set env={manifest.env} or" if manifest.env in FAMILIES else "give"
        raise DatasetError(
            f"{place} holds data of env={manifest.env}, but this run has env={task_set.name}; "
            f"{known} another dataset.path.{nearest(manifest.env, FAMILIES)}"
        )
    found = torch.as_tensor(manifest.tasks["parameters"], dtype=torch.float64)
    if found.shape != task_set.parameters.shape or not torch.allclose(found, task_set.parameters.double()):
        if (manifest.preset, found.shape[0]) == (task_set.preset, task_set.n_tasks):
            raise DatasetError(
                f"{place} holds other tasks than this run, though both have tasks={task_set.preset} with "
                f"{task_set.n_tasks} tasks{_first_difference(found, task_set)}: the definition of "
                f"env={task_set.name} has changed since the collection. Move that folder away, so that the data "
                "are collected again, or set another dataset.root or dataset.path."
            )
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


def _check_training_data(dataset: TaskDataset, task_set: TaskSet) -> None:
    """Require data of every training task.

    Raises:
        DatasetError: with the tasks without data.
    """
    missing = sorted(set(task_set.train_ids) - set(dataset.task_ids.tolist()))
    if missing:
        raise DatasetError(
            f"{dataset.path} has no data of the training tasks {missing}; add their data, or with env=dataset "
            "leave them out of the manifest's train_ids."
        )


def _first_difference(found: torch.Tensor, task_set: TaskSet) -> str:
    """The first task parameter that differs, for a message."""
    wanted = task_set.parameters.double()
    if found.shape != wanted.shape:
        return f" ({found.shape[1]} parameters per task in the data, {wanted.shape[1]} in the run)"
    task, column = (~torch.isclose(found, wanted)).nonzero()[0].tolist()
    name = task_set.parameter_names[column]
    return (
        f" (task {task}: {name}={found[task, column]:.6g} in the data, {wanted[task, column]:.6g} in the run)"
    )


def make_problem(task_set: TaskSet, dataset: TaskDataset) -> Problem:
    """The problem description: sizes from the environment, statistics from the training tasks."""
    family = task_set.family
    return Problem(
        observation_dim=family.observation_dim,
        action_dim=family.action_dim,
        discount=family.discount,
        reward_key=family.return_key,
        context_next_observation=family.context_next_observation,
        statistics=dataset.statistics(task_set.train_ids, family.return_key),
        num_tasks=task_set.n_tasks,
        task_parameters=task_set.standardized_parameters(),
        train_ids=tuple(task_set.train_ids),
    )


def make_buffer(
    dataset: TaskDataset,
    train_ids: Sequence[int],
    batch: BatchConfig,
    draw: ContextDraw,
    generator: torch.Generator,
    return_key: NestedKey = ("next", "reward"),
) -> MetaReplayBuffer:
    """The replay buffer that samples training meta-batches."""
    sampler = TaskSampler(
        dataset,
        task_ids=train_ids,
        tasks_per_batch=batch.tasks,
        transitions_per_task=batch.transitions,
        context=draw,
        num_contexts=2,
        repeat_tasks=batch.repeat_tasks,
        best_share=batch.best_share,
        return_key=return_key,
    )
    return dataset.replay_buffer(sampler, generator=generator)


class AllTaskContexts:
    """Samples one context for every training task.

    Args:
        dataset, train_ids, draw: the data, the tasks, and how contexts are drawn.
        generator (torch.Generator): source of randomness.
        device (torch.device): device of the contexts.
    """

    def __init__(
        self,
        dataset: TaskDataset,
        train_ids: Sequence[int],
        draw: ContextDraw,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        sampler = TaskSampler(
            dataset,
            task_ids=train_ids,
            tasks_per_batch=None,
            transitions_per_task=1,
            context=draw,
            num_contexts=1,
        )
        self.buffer = dataset.replay_buffer(sampler, generator=generator)
        self.device = device

    def __call__(self) -> TensorDictBase:
        """Sample a meta-batch of all training tasks."""
        return self.buffer.sample().to(self.device)
