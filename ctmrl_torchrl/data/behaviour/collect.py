"""Collects a dataset: trains behavior policies, records every snapshot and saves the data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tensordict import NestedKey, TensorDict
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.collector_kinds import COLLECTORS, CollectorConfig
from ctmrl_torchrl.data.behaviour.agents import get_agents
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe, get_recipe, recipe_name
from ctmrl_torchrl.data.behaviour.recording import measure_oracle, record_snapshots
from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.files import check_target
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.envs import TaskSet, get_family, make_task_set, optimal_returns
from ctmrl_torchrl.rules import check_fields, require
from ctmrl_torchrl.storage import expanded


def collect_task_dataset(
    env_name: str,
    *,
    preset: str = "repo",
    recipe: CollectionRecipe | str = "small",
    seed: int = 0,
    path: str | Path | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    task_set: TaskSet | None = None,
    overwrite: bool = False,
    collector: CollectorConfig | None = None,
) -> TaskDataset:
    """Collect the offline dataset of an environment family with behavior data of training and test tasks.

    Agents (``recipe.agents``) are trained on all tasks together. Every snapshot then collects
    ``recipe.trajectories_per_snapshot`` stochastic episodes per task. The same arguments give bit-identical data
    on the CPU of one machine; other processors may round differently. The global random state is not changed.

    By default the agents also learn from test tasks, because the data of a test task represent logged behavior in
    that task. Only the ``offline`` protocol uses these data; meta-training never reads them. See
    ``recipe.behaviour_tasks`` for alternatives, and ``recipe.more_tasks`` for a behavior that learns from further
    tasks.

    With a ``path``, a training that takes more than minutes writes a checkpoint next to it
    (``PATH.unfinished``). A call after an interruption resumes from this checkpoint.

    Args:
        env_name: a name from ``ctmrl_torchrl.envs.family_names()``.
        preset: the task set.
        recipe: a :class:`CollectionRecipe` or its name, see :func:`get_recipe`.
        seed: seed of all randomness.
        path: output folder, which is written atomically. None keeps the dataset in memory.
        device: device of agents and environments; the data are stored on the CPU.
        progress: show progress bars.
        task_set: tasks to use instead of a preset's.
        overwrite: replace an existing dataset at ``path``.
        collector: where the snapshots' episodes are played: in this process (None), in several, or on a Ray
            cluster. The data are the same. Agents are trained in this process.

    Returns:
        The dataset, memory-mapped if ``path`` was given.

    Raises:
        DatasetError: before any work, if ``path`` exists and must not be replaced, or the checkpoint next to it
            belongs to another collection.
        ConfigError: if the collector is not allowed.
        ValueError: if the environment, the preset or the recipe is unknown, the task set belongs to another
            environment, ``recipe.more_tasks`` are asked for and the family cannot add tasks, or the family's
            optimum is invalid.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(2,), trajectories_per_snapshot=3, hidden_sizes=(8,))
        >>> dataset = collect_task_dataset("point_robot", recipe=recipe)
        >>> dataset.n_trajectories == 40 * 2 * 3
        True
    """
    if collector is not None:
        _check_collector(collector, device)
    if path is not None:
        check_target(path, overwrite)
        path = expanded(path)
    tasks = make_task_set(env_name, preset) if task_set is None else task_set
    if tasks.name != env_name:
        raise ValueError(
            f"env_name is {env_name!r}, but the task set is one of {tasks.name!r}; name that family."
        )
    family = tasks.family
    source = family.source_digests()  # now: the files may change while the data are collected
    recipe = get_recipe(recipe, family.name) if isinstance(recipe, str) else recipe
    every = tasks.with_more(recipe.more_tasks) if recipe.more_tasks else tasks
    learned = None if recipe.behaviour_tasks == "all" else every.train_ids
    recorded = _recorded_tasks(tasks, recipe)
    optimum = float(optimal_returns(tasks).mean()) if family.has_optimum else None  # now: it may be wrong
    init_seed, train_seed, record_seed, oracle_seed = _spread_seed(seed, 4)
    kind = get_agents(recipe.agents)
    agents = kind.for_tasks(every, recipe, seed=init_seed, task_ids=learned, device=device)
    snapshots = agents.train(
        every,
        recipe,
        seed=train_seed,
        progress=progress,
        checkpoint=None if path is None else _unfinished(path),
        identity={"tasks": tasks.to_dict(), "seed": seed, "recipe": recipe.to_dict()}
        | ({"source": source} if source else {}),
    )
    policies: list[TensorDict | None] = [None, *snapshots] if recipe.random_snapshot else [*snapshots]
    transitions = record_snapshots(
        every,
        agents,
        policies,
        recipe.trajectories_per_snapshot,
        seed=record_seed,
        progress=progress,
        task_ids=recorded,
        collector=collector,
    )
    manifest = DatasetManifest(
        env=family.name,
        preset=tasks.preset,
        horizon=family.horizon,
        tasks=tasks.to_dict(),
        snapshots=[{"id": index, "step": step} for index, step in enumerate(recipe.all_steps)],
        seeds={"collection": seed},
        versions=library_versions(),
        recipe={
            "name": recipe_name(recipe, family.name),
            "algorithm": kind.algorithm,
            **recipe.to_dict(),
        },
        oracle=measure_oracle(every, agents, policies[-1], seed=oracle_seed, task_ids=recorded),
        source=source,
    )
    dataset = TaskDataset.from_tensordict(transitions, manifest)
    dataset.manifest = dataset.manifest.replace(snapshots=_snapshot_entries(dataset, optimum))
    returns = [entry["mean_return"] for entry in dataset.manifest.snapshots]
    torchrl_logger.info(
        f"collected {family.name} ({tasks.preset}): {tasks.n_tasks} tasks, {dataset.n_transitions} "
        f"transitions, mean return per snapshot {', '.join(f'{value:.2f}' for value in returns)}"
    )
    if path is None:
        return dataset
    saved = TaskDataset.load(dataset.save(path, overwrite=overwrite))
    _unfinished(path).unlink(missing_ok=True)
    return saved


def snapshot_returns(dataset: TaskDataset, key: NestedKey | None = None) -> dict[str, Any]:
    """Mean return of every snapshot, overall, per split and per task.

    Args:
        dataset: any dataset of a registered environment family.
        key: the reward to sum; None means the family's reported reward.

    Returns:
        Plain lists, one entry per snapshot: ``snapshot_id``, ``step`` (None where the manifest has none),
        ``mean``, ``train``, ``test`` and ``per_task`` (by position in ``task_id``); None if there are no data.
        Also ``task_id``: the tasks with data.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=2, hidden_sizes=(8,))
        >>> returns = snapshot_returns(collect_task_dataset("point_robot", recipe=recipe))
        >>> returns["step"], len(returns["mean"]), len(returns["per_task"][0])
        ([0, 1], 2, 40)
    """
    manifest = dataset.manifest
    key = get_family(manifest.env).return_key if key is None else key
    returns = dataset.trajectory_returns(key).double()
    task = torch.searchsorted(dataset.task_ids, dataset.trajectory_task)
    snapshot = torch.searchsorted(dataset.snapshot_ids, dataset.trajectory_snapshot)
    shape = (dataset.snapshot_ids.numel(), dataset.task_ids.numel())
    cell = snapshot * shape[1] + task
    total = returns.new_zeros(shape).flatten().index_add_(0, cell, returns)
    per_task = (total / torch.bincount(cell, minlength=total.numel())).view(shape)
    steps = {entry["id"]: entry.get("step") for entry in manifest.snapshots}

    def mean_of(task_ids: tuple[int, ...]) -> list[float | None]:
        kept = torch.isin(dataset.task_ids, torch.tensor(task_ids, dtype=torch.int64))
        return _plain(per_task[:, kept].nanmean(1))

    return {
        "snapshot_id": dataset.snapshot_ids.tolist(),
        "step": [steps.get(index) for index in dataset.snapshot_ids.tolist()],
        "mean": _plain(per_task.nanmean(1)),
        "train": mean_of(manifest.train_ids),
        "test": mean_of(manifest.test_ids),
        "per_task": [_plain(row) for row in per_task],
        "task_id": dataset.task_ids.tolist(),
    }


def _snapshot_entries(dataset: TaskDataset, optimum: float | None) -> list[dict[str, Any]]:
    """The manifest's entry of each snapshot, with its returns and the mean optimum, if known."""
    returns = snapshot_returns(dataset)
    columns = {
        "id": "snapshot_id",
        "step": "step",
        "mean_return": "mean",
        "train_return": "train",
        "test_return": "test",
        "task_returns": "per_task",
    }
    count = len(returns["snapshot_id"])
    entries = [{name: returns[column][i] for name, column in columns.items()} for i in range(count)]
    if optimum is not None:
        entries = [{**entry, "optimal_return": optimum} for entry in entries]
    return entries


def _recorded_tasks(tasks: TaskSet, recipe: CollectionRecipe) -> Sequence[int] | None:
    """The ids of the tasks with data; None means all that the behavior has."""
    if recipe.behaviour_tasks == "train_only":
        return tasks.train_ids
    return range(tasks.n_tasks) if recipe.more_tasks else None


def _check_collector(collector: CollectorConfig, device: torch.device | str) -> None:
    check_fields(collector, "collector")
    collector.check()
    require(
        COLLECTORS.get(collector.kind).in_process or torch.device(device).type == "cpu",
        "collector.kind",
        collector.kind,
        f"'single' with device={str(device)!r}, because the workers play on the CPU",
    )


def _unfinished(path: str | Path) -> Path:
    """The checkpoint file of an interrupted behavior training."""
    return Path(path).with_name(f"{Path(path).name}.unfinished")


def _spread_seed(seed: int, count: int) -> list[int]:
    """Independent seeds for the stages of a collection."""
    return torch.randint(2**31, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def _plain(values: torch.Tensor) -> list[float | None]:
    return [None if value != value else value for value in values.tolist()]
