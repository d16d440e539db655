"""Task sets: the parameters of every task of a family and the split into training and test tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctmrl_torchrl.envs.families import NO_SIMULATOR, EnvFamily, get_family, load_entry_point
from ctmrl_torchrl.scales import usable_scale

_FIELDS = ("name", "preset", "parameters", "parameter_names", "train_ids", "test_ids")
#: number of parameters in the description of a task
_SHOWN_PARAMETERS = 4


@dataclass(frozen=True, eq=False)
class TaskSet:
    """The tasks of one family in a fixed order, because the split is by index.

    Args:
        family: the family of the tasks.
        preset: a preset of the family, or ``"<train>+<test>"`` for other counts.
        parameters: ``[tasks, parameters]``, one row per task; stored as float64.
        train_ids: ids of the training tasks, at least one, in any order; stored in increasing order.
        test_ids: ids of the test tasks, disjoint from the training tasks; at least one, unless the family has
            data but no environment.

    Raises:
        ValueError: if the parameters do not match the family or are not finite, or if the ids are not integers,
            are outside the set, repeat or overlap, or one of the two splits is empty.

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
        """Validate the parameters and the split, and store both in a canonical form."""
        object.__setattr__(self, "parameters", self._checked_parameters())
        for split in ("train", "test"):
            object.__setattr__(self, f"{split}_ids", self._checked_split(split))
        shared = sorted(set(self.train_ids) & set(self.test_ids))
        if shared:
            raise ValueError(f"Tasks {shared} are in both the training and the test split.")

    def _checked_parameters(self) -> Tensor:
        what = f"The parameters of a {self.family.name!r} task set"
        names = self.family.parameter_names
        dtype = getattr(self.parameters, "dtype", None)
        if dtype is not None and ("complex" in str(dtype) or "bool" in str(dtype)):
            raise ValueError(f"{what} must be real numbers, got {dtype}.")
        try:
            parameters = torch.as_tensor(self.parameters, dtype=torch.float64).detach().cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{what} must be numbers [tasks, {len(names)}]: {error}") from None
        if parameters.ndim != 2 or parameters.shape[1] != len(names):
            raise ValueError(
                f"{what} must have shape [tasks, {len(names)}] ({', '.join(names)}), "
                f"got {list(parameters.shape)}."
            )
        broken = (~parameters.isfinite()).nonzero().tolist()
        if broken:
            task, column = broken[0]
            raise ValueError(
                f"{what} must be finite, got {names[column]}={parameters[task, column].item()} for task "
                f"{task}" + (f" and {len(broken) - 1} more such values." if len(broken) > 1 else ".")
            )
        return parameters

    def _checked_split(self, split: str) -> tuple[int, ...]:
        ids = self.validate_ids(getattr(self, f"{split}_ids"))
        if not ids and (split == "train" or self.family.simulator != NO_SIMULATOR):
            raise ValueError(
                f"{split}_ids of a {self.name!r} task set is empty: the methods need at least one training "
                "task and one test task."
            )
        repeated = sorted({task for task in ids if ids.count(task) > 1})
        if repeated:
            raise ValueError(
                f"{split}_ids of a {self.name!r} task set names tasks {repeated} more than once."
            )
        return tuple(sorted(ids))

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

    def validate_ids(self, task_ids: Iterable[int] | Tensor) -> tuple[int, ...]:
        """Return the ids as integers.

        Raises:
            ValueError: if an id is not an integer or not in the set; the message contains it and the valid
                range.
        """
        given = _listed(task_ids)
        broken = [task for task in given if not _is_whole(task)]
        if broken:
            raise ValueError(f"Task ids must be integers, got {', '.join(map(repr, broken[:5]))}.")
        ids = tuple(int(task) for task in given)
        outside = sorted({task for task in ids if not 0 <= task < self.n_tasks})
        if outside:
            raise ValueError(
                f"Task id {', '.join(map(str, outside))} is not in the {self.name!r} task set "
                f"({self.preset}): valid ids are 0 to {self.n_tasks - 1}."
            )
        return ids

    def describe(self, task: int) -> str:
        """Describe a task for messages.

        Example:
            >>> make_task_set("point_robot").describe(0)
            'task 0 (goal_x=1, goal_y=0)'
        """
        named = zip(self.parameter_names, self.parameters[task].tolist(), strict=True)
        shown = [f"{name}={value:.6g}" for name, value in named]
        more = len(shown) - _SHOWN_PARAMETERS
        if more > 0:
            shown[_SHOWN_PARAMETERS:] = [f"and {more} more"]
        return f"task {task} ({', '.join(shown)})"

    def goal_positions(self) -> Tensor | None:
        """The goal of every task, float64 ``[tasks, 2]``; None for a family without goals."""
        goals = self.family.goal_positions
        return None if goals is None else goals(self.parameters)

    def standardized_parameters(self) -> Tensor:
        """Parameters with mean 0 and standard deviation 1 over the training tasks, ``[tasks, parameters]``.

        A parameter with the same value in all training tasks is only centered. This test does not depend on the
        unit; see :func:`~ctmrl_torchrl.scales.usable_scale`.

        Example:
            >>> make_task_set("half_cheetah_vel").standardized_parameters().shape
            torch.Size([40, 1])
        """
        training = self.parameters[list(self.train_ids)]
        mean = training.mean(0)
        spread = training.std(0) if len(training) > 1 else torch.zeros_like(mean)
        return ((self.parameters - mean) / usable_scale(mean, spread)).float()

    def hold_out(self, part: int, parts: int) -> TaskSet:
        """A task set for cross-validation: one part of the training tasks takes the place of the test tasks.

        The test tasks are in neither split of the result.

        Args:
            part: the part that is held out, from 0 to ``parts - 1``: every ``parts``-th training task.
            parts: number of parts.

        Raises:
            ValueError: if there is no such part, or a split would be empty.

        Examples:
            >>> tasks = make_task_set("point_robot").hold_out(1, 5)
            >>> tasks.test_ids, len(tasks.train_ids)
            ((1, 8, 15, 21, 28, 35), 24)
        """
        if not (2 <= parts <= len(self.train_ids) and 0 <= part < parts):
            raise ValueError(
                f"There is no part {part} of {parts} of {len(self.train_ids)} training tasks: parts must be 2 to "
                f"{len(self.train_ids)}, and part 0 to parts - 1."
            )
        held_out = self.train_ids[part::parts]
        remaining = tuple(task for task in self.train_ids if task not in held_out)
        return replace(self, train_ids=remaining, test_ids=held_out)

    def with_more(self, more: int) -> TaskSet:
        """The task set with ``more`` training tasks of the family behind its own, whose ids stay the same.

        Raises:
            ValueError: if the family's tasks depend on how many there are.

        Examples:
            >>> tasks = make_task_set("hopper_rand_params").with_more(60)
            >>> tasks.preset, tasks.n_tasks, len(tasks.train_ids)
            ('repo+60', 100, 90)
        """
        total = self.n_tasks + more
        parameters = self.family.sample_parameters(total)
        if not torch.equal(parameters[: self.n_tasks], self.parameters):
            raise ValueError(
                f"Training tasks cannot be added to {self.preset!r} of {self.name!r}: its tasks depend on "
                "their number, so the test tasks would change. For other tasks, give make_task_set num_train "
                "and num_test."
            )
        train_ids = (*self.train_ids, *range(self.n_tasks, total))
        return TaskSet(self.family, f"{self.preset}+{more}", parameters, train_ids, self.test_ids)

    def to_dict(self) -> dict[str, Any]:
        """The task set as plain JSON data for ``from_dict``."""
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
        """Create a task set from the output of ``to_dict``.

        Raises:
            ValueError: if the family is unknown, a field is missing or the parameter names differ.
        """
        missing = [key for key in _FIELDS if key not in data]
        if missing:
            raise ValueError(f"A task set needs the field(s) {', '.join(missing)}; got {sorted(data)}.")
        family = get_family(data["name"])
        if tuple(data["parameter_names"]) != family.parameter_names:
            raise ValueError(
                f"The tasks of {family.name!r} are described by {list(family.parameter_names)}, "
                f"got parameter_names={list(data['parameter_names'])}."
            )
        return cls(family, data["preset"], data["parameters"], data["train_ids"], data["test_ids"])


def _listed(task_ids: Iterable[int] | Tensor) -> list[Any]:
    """The ids as a list; tensors and arrays keep their element type."""
    if isinstance(task_ids, (Tensor, np.ndarray)):
        if task_ids.ndim != 1:
            raise ValueError(f"Task ids must have one dimension, got the shape {list(task_ids.shape)}.")
        return task_ids.tolist()
    if isinstance(task_ids, (str, bytes)) or not isinstance(task_ids, Iterable):
        raise ValueError(f"Task ids must be a sequence of integers, got {task_ids!r}.")
    return [task.item() if isinstance(task, (Tensor, np.generic)) else task for task in task_ids]


def _is_whole(task: Any) -> bool:
    if isinstance(task, bool):
        return False
    return isinstance(task, Integral) or (isinstance(task, Real) and float(task).is_integer())


def gap_split(num_train: int, num_test: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Spread the test tasks evenly over the indices.

    The indices are divided into ``num_test`` ranges of equal length, and the task in the middle of each is a test
    task.

    Args:
        num_train: number of training tasks.
        num_test: number of test tasks.

    Returns:
        ``(train_ids, test_ids)``, both increasing; together they are ``0 .. num_train + num_test - 1``.

    Raises:
        ValueError: if a count is not a positive whole number.

    Example:
        >>> gap_split(6, 2)
        ((0, 1, 3, 4, 5, 7), (2, 6))
        >>> gap_split(2, 3)
        ((1, 3), (0, 2, 4))
    """
    for name, count in (("num_train", num_train), ("num_test", num_test)):
        if not isinstance(count, Integral) or isinstance(count, bool) or count < 1:
            raise ValueError(
                f"{name} must be a whole number of at least 1, got num_train={num_train!r}, "
                f"num_test={num_test!r}."
            )
    total = int(num_train + num_test)
    test_ids = tuple((2 * stretch + 1) * total // (2 * num_test) for stretch in range(num_test))
    held_out = set(test_ids)
    return tuple(task for task in range(total) if task not in held_out), test_ids


def make_task_set(
    name: str, preset: str = "repo", *, num_train: int | None = None, num_test: int | None = None
) -> TaskSet:
    """Build a family's tasks and their split.

    Args:
        name: name of the family.
        preset: for the built-in families ``"repo"`` (30 training and 10 test tasks) or ``"paper"`` (80 and 20;
            40 and 10 for the wind; 30 and 10 for ant, hopper and walker). ``"repo+60"`` adds 60 training tasks
            to those of ``"repo"``, which stay as they are. This needs a family that samples its tasks one after
            the other (hopper, walker).
        num_train: overrides the preset's number of training tasks.
        num_test: overrides the preset's number of test tasks.

    Raises:
        ValueError: if the family or the preset is unknown, a count is not positive, or tasks cannot be added.

    Example:
        >>> make_task_set("point_robot_wind", "paper").n_tasks
        50
        >>> few, many = (make_task_set("hopper_rand_params", preset) for preset in ("repo", "repo+60"))
        >>> few.test_ids == many.test_ids, len(few.train_ids), len(many.train_ids)
        (True, 30, 90)
    """
    family = get_family(name)
    base, more = family.read_preset(preset)
    if more:
        return make_task_set(name, base, num_train=num_train, num_test=num_test).with_more(more)
    preset_train, preset_test = family.presets[preset]
    counts = (
        preset_train if num_train is None else num_train,
        preset_test if num_test is None else num_test,
    )
    train_ids, test_ids = gap_split(*counts)
    label = preset if counts == (preset_train, preset_test) else f"{counts[0]}+{counts[1]}"
    return TaskSet(family, label, family.sample_parameters(sum(counts)), train_ids, test_ids)


def optimal_returns(task_set: TaskSet, **options: Any) -> Tensor:
    """The exact optimum of the reported, undiscounted return of every task.

    Args:
        task_set: the tasks.
        **options: passed to the family's optimum (point robots: ``horizon``, ``sparse_rule``,
            ``sparse_radius``).

    Returns:
        float64 returns of shape ``[tasks]``.

    Raises:
        ValueError: if the family has no known optimum, or its optimum is not one finite number per task.

    Example:
        >>> tasks = make_task_set("point_robot")
        >>> round(optimal_returns(tasks)[list(tasks.test_ids)].mean().item(), 3)
        -3.855
    """
    optimum = task_set.family.optimum
    if optimum is None:
        raise ValueError(
            f"The exact optimum of {task_set.name!r} is unknown; compare with a trained oracle instead."
        )
    returned = load_entry_point(optimum)(task_set, **options)
    expected = f"optimum of {task_set.name!r} must return one number per task, [{task_set.n_tasks}]"
    try:
        returns = torch.as_tensor(returned, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"The {expected}, got {type(returned).__name__}: {error}.") from None
    if returns.shape != (task_set.n_tasks,):
        raise ValueError(f"The {expected}, got the shape {list(returns.shape)}.")
    broken = (~returns.isfinite()).nonzero().flatten().tolist()
    if broken:
        raise ValueError(
            f"The {expected}, all finite, got {returns[broken[0]].item()} for {task_set.describe(broken[0])}."
        )
    return returns
