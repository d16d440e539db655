"""The base class and registration of behavior agents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torchrl.envs import EnvBase

from ctmrl_torchrl.data.behaviour.kinds import BEHAVIOUR_AGENTS, AgentsKind
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.envs import TaskSet, make_env


@contextmanager
def isolated_rng(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore their states afterwards.

    Distributions, action specs and weight initialization use the global generators.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def task_rows(
    tasks: TaskSet, task_ids: Sequence[int], repeats: int, *, device: torch.device | str, seed: int
) -> EnvBase:
    """An environment with ``repeats`` rows per task, ordered ``[repeat, task]``."""
    rows = torch.tensor(task_ids).repeat(repeats)
    return make_env(tasks.name, rows, task_set=tasks, device=device, seed=seed)


class BehaviourAgents(AgentsKind, ABC):
    """Behavior policies for the tasks of a set, which are trained together and saved as snapshots.

    A subclass sets the attributes of :class:`AgentsKind`, the module ``actor``, whose parameters and buffers
    make up a snapshot, and ``device``. :func:`register_agents` makes it available for
    ``CollectionRecipe.agents``.
    """

    actor: TensorDictModuleBase
    device: torch.device

    @classmethod
    @abstractmethod
    def for_tasks(
        cls,
        tasks: TaskSet,
        recipe: CollectionRecipe,
        *,
        seed: int,
        task_ids: Sequence[int] | None = None,
        device: torch.device | str = "cpu",
    ) -> BehaviourAgents:
        """Create the untrained agents of a task set.

        Args:
            tasks: the task set.
            recipe: network and optimizer settings.
            seed: seed of the initial weights.
            task_ids: the training tasks; None means all tasks.
            device: device of the parameters.
        """

    @abstractmethod
    def train(
        self,
        tasks: TaskSet,
        recipe: CollectionRecipe,
        *,
        seed: int,
        progress: bool = False,
        checkpoint: Path | None = None,
        identity: dict[str, Any] | None = None,
    ) -> list[TensorDict]:
        """Train according to the recipe and return one :meth:`snapshot` per entry of ``snapshot_steps``.

        Args:
            tasks: task set of the agents.
            recipe: recipe of the agents.
            seed: seed of the training; the global generators are not changed.
            progress: show a progress bar.
            checkpoint: file that a long training writes regularly and resumes from if it exists.
            identity: values that a checkpoint must share with this training.
        """

    @abstractmethod
    def policy(self) -> TensorDictModuleBase:
        """The current stochastic policy of flat environment rows ordered ``[repeat, task]``."""

    def snapshot(self) -> TensorDict:
        """A detached copy of the actor's parameters and buffers."""
        return cast(TensorDict, TensorDict.from_module(self.actor)).data.clone()

    def load_snapshot(self, parameters: TensorDictBase) -> None:
        """Copy a :meth:`snapshot` into the actor."""
        cast(TensorDict, TensorDict.from_module(self.actor)).data.update_(parameters)


def register_agents(kind: str, cls: type[BehaviourAgents]) -> type[BehaviourAgents]:
    """Register a kind of behavior agents for ``CollectionRecipe.agents``.

    Args:
        kind: the name of the choice.
        cls: a subclass of :class:`BehaviourAgents`.

    Returns:
        The class.

    Raises:
        TypeError: if it is not a subclass of :class:`BehaviourAgents`.
        ValueError: if another class has this name.
    """
    if not (isinstance(cls, type) and issubclass(cls, BehaviourAgents)):
        raise TypeError(f"register_agents({kind!r}) needs a subclass of BehaviourAgents, got {cls!r}.")
    BEHAVIOUR_AGENTS.register(kind, cls)
    return cls


def get_agents(kind: str) -> type[BehaviourAgents]:
    """Look up a kind of behavior agents.

    Raises:
        UnknownChoiceError: if the name is unknown; the message lists the known names.
    """
    return cast(type[BehaviourAgents], BEHAVIOUR_AGENTS.get(kind))
