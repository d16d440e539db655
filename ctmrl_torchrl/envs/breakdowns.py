"""Counts unstable simulations by task and logs warnings about them."""

from __future__ import annotations

import numpy as np
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.envs.task_sets import TaskSet

#: consecutive unstable episodes in every row of a task after which a warning is logged
REPEATED = 5
_SHOWN_TASKS = 3


class BreakdownCounts:
    """Counts how often the simulation of each task became unstable.

    The first instability is logged as a warning, and also the first time that all rows of a task were unstable
    in their last ``REPEATED`` episodes. Later ones are only counted.

    Args:
        task_set: the tasks.
        task_ids: the task of each row, ``[n]``.

    Attributes:
        counts (np.ndarray): unstable simulations by task id, int64 ``[tasks]``.
    """

    def __init__(self, task_set: TaskSet, task_ids: np.ndarray) -> None:
        self.task_set = task_set
        self.counts = np.zeros(task_set.n_tasks, dtype=np.int64)
        self._warned_of: set[int] = set()
        self.follow(task_ids)

    def follow(self, task_ids: np.ndarray) -> None:
        """Change the tasks of the rows; the counts so far are kept."""
        self._task_ids = task_ids
        self._in_a_row = np.zeros(len(task_ids), dtype=np.int64)

    def record(self, unstable: np.ndarray, ended: np.ndarray) -> None:
        """Record one step of all rows.

        Args:
            unstable: rows whose simulation became unstable in this step, bool ``[n]``.
            ended: rows whose episode ended in this step, bool ``[n]``.
        """
        if unstable.any():
            first = not self.counts.any()
            np.add.at(self.counts, self._task_ids[unstable], 1)
            self._in_a_row[unstable] += 1
            if first:
                torchrl_logger.warning(
                    f"A simulation of {self.task_set.name!r} became unstable: "
                    f"{self.task_set.describe(int(self._task_ids[unstable][0]))}. The episode is truncated. "
                    "Further cases are counted but not reported individually."
                )
            self._warn_of_broken_tasks(self._task_ids[unstable])
        if self._in_a_row.any():
            self._in_a_row[ended & ~unstable] = 0

    def _warn_of_broken_tasks(self, task_ids: np.ndarray) -> None:
        for task in set(task_ids.tolist()) - self._warned_of:
            if (self._in_a_row[self._task_ids == task] >= REPEATED).all():
                self._warned_of.add(task)
                torchrl_logger.warning(
                    f"Every simulation of {self.task_set.name!r} {self.task_set.describe(task)} became "
                    f"unstable in its last {REPEATED} episodes. Check the task's parameters and the actions."
                )

    def describe(self) -> str:
        """The tasks with the most unstable simulations as text for messages; empty if there were none."""
        worst = [task for task in np.argsort(-self.counts, kind="stable") if self.counts[task]]
        named = [f"{self.task_set.describe(int(task))}: {self.counts[task]}" for task in worst[:_SHOWN_TASKS]]
        if len(worst) > _SHOWN_TASKS:
            named.append(f"and {len(worst) - _SHOWN_TASKS} more tasks")
        return "; ".join(named)
