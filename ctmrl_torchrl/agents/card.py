"""The card of a saved agent: its description, its origin, and the configuration of its networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from tensordict.utils import NestedKey

from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import is_number, is_whole

FORMAT_VERSION = 1
#: fields that define the networks: with other values, the same weights act differently
NETWORKS = ("problem", "encoder", "policy_loss", "transition_key")
#: names of an agent's two files
CARD, WEIGHTS = "agent.json", "agent.safetensors"
#: the card of an agent that is being saved; it becomes CARD once the weights are complete
NEXT_CARD = "agent.next.json"
#: maximum plausible size of a problem
_LARGEST = 10**8


class AgentError(ValueError):
    """A saved agent cannot be used; the message contains the problem and how to fix it."""


@dataclass(frozen=True)
class AgentCard:
    """The description of an agent as plain JSON.

    Args:
        method, env (str): method and environment of the training.
        problem (dict): sizes and keys, see :class:`~ctmrl_torchrl.problem.Problem`.
        encoder, policy_loss (dict): fields of the configurations that build encoder and actor.
        transition_key (str or None): key of the encoder's per-transition contexts.
        tasks (str): task set of the training. command (str): the command that trained the agent.
        horizon (int): steps of an episode. random_episodes, episodes (int): protocol defaults.
        data (str): fingerprint of the dataset. returns (dict): mean return by split and protocol.
        versions (dict): versions of the packages used for training.
        license (str): license of the weights.
        weights (str): sha256 of the weights' file; filled in on saving and compared on loading.
        format_version (int): format version of the card.

    Examples:
        >>> card = AgentCard("ctmrl", "point_robot", {}, {}, {}, horizon=20)
        >>> AgentCard.from_dict(card.to_dict()) == card
        True
    """

    method: str
    env: str
    problem: dict[str, Any]
    encoder: dict[str, Any]
    policy_loss: dict[str, Any]
    transition_key: str | None = None
    tasks: str = ""
    command: str = ""
    horizon: int = 1
    episodes: int = 20
    random_episodes: int = 10
    data: str = ""
    returns: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    license: str = "MIT"
    weights: str = ""
    format_version: int = FORMAT_VERSION

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def networks_digest(self) -> str:
        """The sha256 of the fields that define the networks."""
        said = {name: getattr(self, name) for name in NETWORKS}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AgentCard:
        """Create a card from the output of :meth:`to_dict`.

        Raises:
            AgentError: with the field that is missing, unknown or of a wrong type.
        """
        known = {each.name: each for each in fields(cls)}
        unknown = sorted(set(values) - set(known))
        needed = ("method", "env", "problem", "encoder", "policy_loss")
        missing = sorted(name for name in needed if name not in values)
        if unknown or missing:
            what = f"lacks {', '.join(missing)}" if missing else f"has unknown fields {', '.join(unknown)}"
            raise AgentError(f"the agent's card {what}; it was not written by this version of the library.")
        if values.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            versions = values.get("versions")
            named = versions.get("ctmrl_torchrl") if isinstance(versions, dict) else None
            raise AgentError(
                f"the agent's card has format_version {values['format_version']!r}, this library reads "
                f"{FORMAT_VERSION}; save the agent again, or install the version it names: {named or 'unknown'}."
            )
        for name, value in values.items():
            expected = type(getattr(cls("", "", {}, {}, {}), name))
            allowed = (str, type(None)) if name == "transition_key" else expected
            if not isinstance(value, allowed) or isinstance(value, bool):
                raise AgentError(f"the agent's card: {name} must be a {expected.__name__}, got {value!r}.")
        for name in ("horizon", "episodes", "random_episodes"):
            if not 1 <= values.get(name, 1) <= _LARGEST:
                raise AgentError(
                    f"the agent's card: {name} must be at least 1 and at most {_LARGEST}, got {values[name]!r}."
                )
        return cls(**values)

    @classmethod
    def read(cls, path: Path) -> AgentCard:
        """Read a card's file.

        Raises:
            AgentError: if it is missing or not a card.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
        except FileNotFoundError as error:
            raise AgentError(
                f"{path.parent} contains no agent ({path.name} is missing); give a finished run's folder, or a "
                "folder written by Agent.save."
            ) from error
        except (OSError, ValueError, RecursionError) as error:  # invalid text or JSON, or excessive numbers
            raise AgentError(f"{path} cannot be read as an agent's card: {error}") from error
        if not isinstance(values, dict):
            raise AgentError(f"{path} must contain a JSON object, got a {type(values).__name__}.")
        try:
            return cls.from_dict(values)
        except AgentError as error:
            raise AgentError(f"{path}: {error}") from None


def plain_problem(problem: Problem) -> dict[str, Any]:
    """Sizes and keys of a problem as plain values; statistics are buffers of the networks."""
    return {
        "observation_dim": problem.observation_dim,
        "action_dim": problem.action_dim,
        "discount": problem.discount,
        "reward_key": _plain_key(problem.reward_key),
        "context_next_observation": problem.context_next_observation,
        "num_tasks": problem.num_tasks,
        "task_parameters": None if problem.task_parameters is None else list(problem.task_parameters.shape),
    }


def problem_of(values: Mapping[str, Any]) -> Problem:
    """Create a problem with these sizes; its statistics are placeholders of the right shape.

    Raises:
        AgentError: if a size is missing or wrong.
    """
    try:
        observation, action = _size(values, "observation_dim"), _size(values, "action_dim")
        key, discount = values["reward_key"], values["discount"]
        reward_key = tuple(key) if isinstance(key, list) else key
        parts = reward_key if isinstance(reward_key, tuple) else (reward_key,)
        if not parts or not all(isinstance(part, str) and part for part in parts):
            raise ValueError(f"reward_key is {key!r}")
        if not is_number(discount) or not 0 <= discount <= 1:
            raise ValueError(f"discount is {discount!r}")
        if not isinstance(values["context_next_observation"], bool):
            raise ValueError(f"context_next_observation is {values['context_next_observation']!r}")
        sizes = {"observation": observation, "action": action, ("next", "observation"): observation}
        sizes |= {"observation_change": observation, ("next", "reward"): 1, reward_key: 1}
        statistics = {name: (torch.zeros(size), torch.ones(size)) for name, size in sizes.items()}
        table = values.get("task_parameters")
        return Problem(
            observation_dim=observation,
            action_dim=action,
            discount=float(discount),
            reward_key=reward_key,
            context_next_observation=values["context_next_observation"],
            statistics=statistics,
            num_tasks=_size(values, "num_tasks"),
            task_parameters=None if table is None else torch.zeros(*table),
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AgentError(f"the agent's card: problem is not complete or not valid ({error!r}).") from error


def _size(values: Mapping[str, Any], name: str) -> int:
    size = values[name]
    if not is_whole(size) or not 0 <= size <= _LARGEST:
        raise ValueError(f"{name} is {size!r}")
    return int(size)


def _plain_key(key: NestedKey) -> Any:
    return list(key) if isinstance(key, tuple) else key
