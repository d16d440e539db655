"""Task sets: the parameters of every task of a family and the split into training and test tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctmrl_torchrl.envs.families import EnvFamily, get_family, load_entry_point

SMALLEST_SPREAD = 1e-6


@dataclass(frozen=True, eq=False)
class TaskSet:
    """The tasks of one family, with a fixed order, since the split is by index.

    Args:
        family: the family the tasks belong to.
        preset: where the tasks come from: a preset of the family, or ``"<train>+<test>"`` for other counts.
        parameters: float64 ``[tasks, parameters]``, one row per task.
        train_ids: ids of the training tasks, increasing.
        test_ids: ids of the test tasks, increasing, none of them a training task.

    Raises:
        ValueError: if the parameters do not fit the family, or the ids are outside the set or overlap.

    Example:
        >>> tasks = make_task_set("point_robot")
        >>> len(tasks), tasks.test_ids[:3]
        (40, (2, 6, 10))
    """

    family: EnvFamily
    preset: str
    parameters: Tensor
    train_ids: tuple[int, ...]
    test_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        """Checks the parameters' shape and the split."""
        expected = len(self.family.parameter_names)
        if self.parameters.ndim != 2 or self.parameters.shape[1] != expected:
            raise ValueError(
                f"The parameters of a {self.family.name!r} task set must have shape [tasks, {expected}] "
                f"({', '.join(self.family.parameter_names)}), got {list(self.parameters.shape)}."
            )
        self.validate_ids((*self.train_ids, *self.test_ids))
        shared = sorted(set(self.train_ids) & set(self.test_ids))
        if shared:
            raise ValueError(f"Tasks {shared} are in both the training and the test split.")

    @property
    def name(self) -> str:
        """The family's name."""
        return self.family.name

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return self.parameters.shape[0]

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """One name per column of ``parameters``."""
        return self.family.parameter_names

    def __len__(self) -> int:
        """Number of tasks."""
        return self.n_tasks

    def validate_ids(self, task_ids: Iterable[int]) -> tuple[int, ...]:
        """Returns the ids as integers.

        Raises:
            ValueError: if an id is not whole or not in the set; the message names it and the valid range.
        """
        given = [task if isinstance(task, bool) else float(task) for task in task_ids]
        broken = [task for task in given if isinstance(task, bool) or not task.is_integer()]
        if broken:
            raise ValueError(f"Task ids are whole numbers, got {', '.join(map(str, broken))}.")
        ids = tuple(int(task) for task in given)
        outside = sorted({task for task in ids if not 0 <= task < self.n_tasks})
        if outside:
            raise ValueError(
                f"Task id {', '.join(map(str, outside))} is not in the {self.name!r} task set "
                f"({self.preset}): valid ids are 0 to {self.n_tasks - 1}."
            )
        return ids

    def standardised_parameters(self) -> Tensor:
        """Parameters with mean 0 and deviation 1 over the training tasks, float32 ``[tasks, parameters]``.

        Example:
            >>> make_task_set("half_cheetah_vel").standardised_parameters().shape
            torch.Size([40, 1])
        """
        training = self.parameters[list(self.train_ids)]
        spread = training.std(0)
        constant = spread <= SMALLEST_SPREAD  # what never varies is left unscaled
        return ((self.parameters - training.mean(0)) / spread.masked_fill(constant, 1.0)).float()

    def to_dict(self) -> dict[str, Any]:
        """The task set as plain JSON data; ``from_dict`` reads it back."""
        return {
            "name": self.name,
            "preset": self.preset,
            "parameters": self.parameters.tolist(),
            "parameter_names": list(self.parameter_names),
            "train_ids": list(self.train_ids),
            "test_ids": list(self.test_ids),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskSet:
        """Builds a task set from what ``to_dict`` wrote.

        Raises:
            ValueError: if the family is unknown, a field is missing or the parameters are others.
        """
        missing = [
            key
            for key in ("name", "preset", "parameters", "parameter_names", "train_ids", "test_ids")
            if key not in data
        ]
        if missing:
            raise ValueError(f"A task set needs the field(s) {', '.join(missing)}; got {sorted(data)}.")
        family = get_family(data["name"])
        if tuple(data["parameter_names"]) != family.parameter_names:
            raise ValueError(
                f"The tasks of {family.name!r} are described by {list(family.parameter_names)}, "
                f"got parameter_names={list(data['parameter_names'])}."
            )
        return cls(
            family=family,
            preset=data["preset"],
            parameters=torch.tensor(data["parameters"], dtype=torch.float64),
            train_ids=tuple(data["train_ids"]),
            test_ids=tuple(data["test_ids"]),
        )


def gap_split(num_train: int, num_test: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spreads the test tasks evenly over the indices.

    Args:
        num_train: number of training tasks, a multiple of ``num_test``.
        num_test: number of test tasks.

    Returns:
        ``(train_ids, test_ids)``, both increasing; together they are ``0 .. num_train + num_test - 1``.

    Raises:
        ValueError: if a count is not positive or ``num_test`` does not divide ``num_train``.

    Example:
        >>> gap_split(6, 2)
        ((0, 1, 3, 4, 5, 7), (2, 6))
    """
    if num_train < 1 or num_test < 1 or num_train % num_test:
        raise ValueError(
            f"num_test must be positive and divide num_train, got num_train={num_train}, num_test={num_test}."
        )
    gap = num_train // num_test + 1
    test_ids = tuple(range(gap // 2, gap * num_test, gap))
    held_out = set(test_ids)
    train_ids = tuple(task for task in range(num_train + num_test) if task not in held_out)
    return train_ids, test_ids


def make_task_set(
    name: str, preset: str = "repo", *, num_train: int | None = None, num_test: int | None = None
) -> TaskSet:
    """Builds a family's tasks and their split.

    Args:
        name: name of the family.
        preset: ``"repo"`` (30 training and 10 test tasks) or ``"paper"`` (80 and 20; 40 and 10 for the wind).
        num_train: overrides the preset's number of training tasks.
        num_test: overrides the preset's number of test tasks.

    Raises:
        ValueError: if the family or the preset is unknown, or the counts cannot be split.

    Example:
        >>> make_task_set("point_robot_wind", "paper").n_tasks
        50
    """
    family = get_family(name)
    if preset not in family.presets:
        raise ValueError(
            f"Unknown preset {preset!r} for {name!r}. Known presets: {', '.join(family.presets)}."
        )
    preset_train, preset_test = family.presets[preset]
    counts = (
        preset_train if num_train is None else num_train,
        preset_test if num_test is None else num_test,
    )
    train_ids, test_ids = gap_split(*counts)
    label = preset if counts == (preset_train, preset_test) else f"{counts[0]}+{counts[1]}"
    return TaskSet(family, label, family.sample_parameters(sum(counts)), train_ids, test_ids)


def optimal_returns(task_set: TaskSet, **options: Any) -> Tensor:
    """Exact optimal value of the reported, undiscounted return of every task.

    Args:
        task_set: the tasks.
        **options: passed to the family's oracle (point robots: ``horizon``, ``sparse_rule``,
            ``sparse_radius``).

    Returns:
        float64 returns of shape ``[tasks]``.

    Raises:
        ValueError: if the family has no known optimum.

    Example:
        >>> tasks = make_task_set("point_robot")
        >>> round(optimal_returns(tasks)[list(tasks.test_ids)].mean().item(), 3)
        -3.855
    """
    if not task_set.family.has_optimum:
        raise ValueError(f"No exact optimum is known for {task_set.name!r}: compare with a trained oracle.")
    return load_entry_point(task_set.family.optimum)(task_set, **options)
