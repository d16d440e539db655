"""The return of uniformly random actions, the lower reference of summaries and reports."""

from __future__ import annotations

from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.envs import NO_SIMULATOR, TaskSet, random_returns


def random_reference(
    task_set: TaskSet, dataset: TaskDataset, *, measure: bool = False
) -> dict[str, float | None]:
    """Mean return of uniformly random actions by split, as far as it is known.

    A family that states its random returns, as the shipped ones do, is taken at its word. For others, it is the
    return of the random snapshot with which a collection begins.

    Args:
        task_set: the tasks.
        dataset: their data.
        measure: play 4 episodes per task, with a fixed seed, for a split that the data do not tell.

    Returns:
        ``{"train": ..., "test": ...}``; a split that is not known is missing or None.

    Examples:
        >>> from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
        >>> from ctmrl_torchrl.envs import make_task_set
        >>> recipe = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=2, hidden_sizes=(8,))
        >>> random_reference(make_task_set("point_robot"), collect_task_dataset("point_robot", recipe=recipe))
        {'train': -20.35, 'test': -20.36}
    """
    family = task_set.family
    if family.random_return:
        return dict(family.known_random_returns(task_set.preset))
    known = _of_the_data(dataset)
    splits = {"train": list(task_set.train_ids), "test": list(task_set.test_ids)}
    unknown = [split for split, ids in splits.items() if ids and known.get(split) is None]
    if unknown and measure and family.simulator != NO_SIMULATOR:
        try:
            returns = random_returns(task_set)
        except Exception as error:  # a finished run keeps its results
            torchrl_logger.warning(
                f"the return of random actions in {family.name} could not be measured, so scores are not "
                f"normalized: {type(error).__name__}: {error}"
            )
        else:
            known |= {split: returns[splits[split]].mean().item() for split in unknown}
    return known


def _of_the_data(dataset: TaskDataset) -> dict[str, float | None]:
    """The returns of the random snapshot of a collection by split; empty if there is none."""
    manifest = dataset.manifest
    first = next((entry for entry in manifest.snapshots if entry["id"] == 0), {})
    if manifest.recipe.get("random_snapshot") is not True or first.get("step") != 0:
        return {}
    return {split: first.get(f"{split}_return") for split in ("train", "test")}
