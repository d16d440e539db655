"""What every kind of behaviour agents can do, and how a kind becomes a choice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.envs import EnvBase

from ctmrl_torchrl.data.behaviour.kinds import BEHAVIOUR_AGENTS, AgentsKind
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe
from ctmrl_torchrl.envs import TaskSet, make_env


@contextmanager
def isolated_rng(seed: int, device: torch.device | str) -> Iterator[None]:
    """Seed torch's global generators inside the block only; the caller's streams are untouched.

    Distributions, action specs and weight initialisation draw from the global generators.
    """
    device = torch.device(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def task_rows(
    tasks: TaskSet, task_ids: Sequence[int], repeats: int, *, device: torch.device | str, seed: int
) -> EnvBase:
    """The environment of ``repeats`` rows for each of some tasks, ordered ``[repeat, task]``."""
    rows = torch.tensor(task_ids).repeat(repeats)
    return make_env(tasks.name, rows, task_set=tasks, device=device, seed=seed)


class BehaviourAgents(AgentsKind, ABC):
    """Behaviour policies of the tasks of a set: trained together, cloned on the way, recorded afterwards.

    A subclass sets the attributes of :class:`AgentsKind`, ``actor``, the module whose parameters and buffers
    a snapshot holds, and ``device``. It becomes a choice of ``CollectionRecipe.agents`` by
    :func:`register_agents`.
    """

    actor: nn.Module
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
        """The untrained agents of a task set.

        Args:
            tasks: the task set.
            recipe: network and optimizer settings.
            seed: of the initial weights.
            task_ids: the tasks to learn from; None is all of them.
            device: where parameters live.
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
        """Train to the end of the recipe; one :meth:`snapshot` for each of its ``snapshot_steps``.

        Args:
            tasks, recipe: those the agents were made for.
            seed: of everything random in the training; the global generators are left as they were.
            progress: show a progress bar.
            checkpoint: file that a long training writes now and then, and resumes from if it exists.
            identity: plain values that a checkpoint must share with this training.
        """

    @abstractmethod
    def policy(self) -> TensorDictModuleBase:
        """The current stochastic policy of flat environment rows ordered ``[repeat, task]``."""

    def snapshot(self) -> TensorDict:
        """A detached copy of the actor's parameters and buffers."""
        return TensorDict.from_module(self.actor).data.clone()

    def load_snapshot(self, parameters: TensorDictBase) -> None:
        """Copy a :meth:`snapshot` into the actor."""
        TensorDict.from_module(self.actor).data.update_(parameters)


def register_agents(kind: str, cls: type[BehaviourAgents]) -> type[BehaviourAgents]:
    """Make a kind of behaviour agents a choice of ``CollectionRecipe.agents``.

    Args:
        kind: the name of the choice.
        cls: a subclass of :class:`BehaviourAgents`.

    Returns:
        The class.

    Raises:
        TypeError: if it is not a subclass of :class:`BehaviourAgents`.
        ValueError: if the name is taken by another class.
    """
    if not (isinstance(cls, type) and issubclass(cls, BehaviourAgents)):
        raise TypeError(f"register_agents({kind!r}) needs a subclass of BehaviourAgents, got {cls!r}.")
    BEHAVIOUR_AGENTS.register(kind, cls)
    return cls


def get_agents(kind: str) -> type[BehaviourAgents]:
    """Look up a kind of behaviour agents.

    Raises:
        UnknownChoiceError: if there is none of that name; the message lists the names.
    """
    return cast(type[BehaviourAgents], BEHAVIOUR_AGENTS.get(kind))
