"""Checks of what a user gives to an agent: keys, shapes, types and finite numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from tensordict import TensorDictBase, unravel_key
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs import EnvBase

from ctmrl_torchrl.modules.keys import read, rest_of_key
from ctmrl_torchrl.problem import Problem

FLAGS = ("terminated", "truncated", "done")


def entry_sizes(problem: Problem) -> dict[NestedKey, int]:
    """Sizes of the entries of a transition that an encoder may read."""
    sizes = problem.feature_dims
    sizes["next", "observation"] = problem.observation_dim
    for flag in FLAGS:
        sizes["next", flag] = 1
    return sizes


def require_state(
    observation: Tensor,
    task_context: Tensor,
    actor: nn.Module,
    *,
    observation_dim: int,
    context_dim: int,
) -> None:
    """Require observations ``[n, o]`` and contexts ``[n, d]`` that the actor can read.

    Raises:
        TypeError: if one of them is not a tensor.
        ValueError: for another shape, type or device than the actor's, or a number that is not finite.
    """
    given: dict[NestedKey, Tensor] = {"observation": observation, "task_context": task_context}
    sizes = {"observation": observation_dim, "task_context": context_dim}
    for key, value in given.items():
        _require_tensor(value, key, "Agent.act")
        _require_rows(value, key, ("n", sizes[cast(str, key)]), "Agent.act", f"{key}.unsqueeze(0)")
    if observation.shape[:-1] != task_context.shape[:-1]:
        raise ValueError(
            f"Agent.act: 'observation' has shape {list(observation.shape)} and 'task_context' "
            f"{list(task_context.shape)}, expected as many rows in both; one context for all observations is "
            "task_context.expand(len(observation), -1)."
        )
    _require_numbers(given, actor, "Agent.act")


def require_evidence(transitions: TensorDictBase, encoder: TensorDictModuleBase, problem: Problem) -> None:
    """Require transitions ``[n, L]`` that the encoder can read.

    Raises:
        TypeError: if they are not a TensorDict.
        KeyError: if an entry is missing.
        ValueError: for an encoder that reads something else, or an entry of another shape, type or device than
            the encoder's, or with a number that is not finite.
    """
    reader = "Agent.encode"
    if not isinstance(transitions, TensorDictBase):
        raise TypeError(
            f"{reader}: the transitions are a {type(transitions).__name__}, expected a TensorDict [n, L] with "
            "entries such as 'observation', 'action' and ('next', 'reward')."
        )
    sizes, given = entry_sizes(problem), {}
    for key in encoder.in_keys:
        rest = rest_of_key(cast(NestedKey, unravel_key(key)), "context")
        if not rest:
            raise ValueError(
                f"{reader}: the agent's encoder reads {key!r}, which is no entry of transitions, so it cannot "
                "encode them; Agent.adapt(env, 'told') gives an encoder of the task id those of the rows."
            )
        inner = rest[0] if len(rest) == 1 else rest
        given[inner] = value = read(transitions, inner, reader)
        _require_tensor(value, inner, reader)
        _require_rows(value, inner, ("n", "L", sizes.get(inner)), reader, "transitions.unsqueeze(0)")
    _require_numbers(given, encoder, reader)


def require_environment(env: Any, task_ids: Tensor | None) -> None:
    """Require an environment, or a function that makes one together with the tasks of its rows.

    Raises:
        TypeError: for anything else, such as an environment of Gymnasium.
        ValueError: for a function without ``task_ids``.
    """
    if isinstance(env, EnvBase):
        return
    if not callable(env):
        raise TypeError(
            f"Agent.adapt: env is a {type(env).__name__}, expected a batched torchrl.envs.EnvBase, such as "
            'ctmrl_torchrl.envs.make_env("point_robot", [2, 6]), or a function that makes one. An environment of '
            "Gymnasium becomes one with torchrl.envs.SerialEnv(1, lambda: torchrl.envs.GymWrapper(env))."
        )
    if task_ids is None and attribute_of(env, "task_ids") is None:
        raise ValueError(
            "Agent.adapt: env is a function, so the rows are not known before it is called; give task_ids=, the "
            "task of each row."
        )


def require_sizes(env: EnvBase, problem: Problem, dtype: torch.dtype, trained_on: str) -> None:
    """Require the sizes of the agent's training data, and a type that promotes to the agent's.

    Args:
        env: the environment. problem: sizes of the training data. dtype: of the agent's networks.
        trained_on: name of the agent's environment.

    Raises:
        ValueError: with both sizes or types.
    """
    expected = {"observation": problem.observation_dim, "action": problem.action_dim}
    specs = {"observation": env.observation_spec, "action": env.full_action_spec}
    found = {
        name: specs[name][name].shape[-1] if name in specs[name].keys() else None  # noqa: SIM118
        for name in expected
    }
    if found != expected:
        raise ValueError(
            f"The agent was trained on {trained_on} with the sizes {expected}, but the environment has "
            f"{found}; give an environment with the keys and sizes of the training data."
        )
    given = env.observation_spec["observation"].dtype
    if torch.promote_types(dtype, given) != dtype:
        raise ValueError(
            f"The agent computes with {dtype}, but the environment's 'observation' has the dtype {given}; "
            "convert it with torchrl.envs.TransformedEnv(env, torchrl.envs.DoubleToFloat())."
        )


def attribute_of(env: Any, name: str, default: Any = None) -> Any:
    """An attribute of an environment; without it, or before a ``SerialEnv`` has started, the default."""
    try:
        return getattr(env, name, default)
    except RecursionError:  # SerialEnv asks its environments, which its first reset makes
        return default


def _require_tensor(value: Any, key: NestedKey, reader: str) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(
            f"{reader}: {key!r} is a {type(value).__name__}, expected a torch.Tensor (torch.as_tensor makes one)."
        )


def _require_rows(value: Tensor, key: NestedKey, expected: tuple[Any, ...], reader: str, rows: str) -> None:
    """Require the last size and at least as many dimensions as ``expected``."""
    size = expected[-1]
    if value.ndim >= len(expected) and size in (None, value.shape[-1]):
        return
    wanted = ", ".join("size" if each is None else str(each) for each in expected)
    hint = "these are the sizes of the agent's training data"
    if value.ndim == len(expected) - 1 and size in (None, *value.shape[-1:]):
        hint = f"a single one needs a dimension for the rows: {rows}"
    raise ValueError(f"{reader}: {key!r} has shape {list(value.shape)}, expected [{wanted}]; {hint}.")


def _require_numbers(given: Mapping[NestedKey, Tensor], module: nn.Module, reader: str) -> None:
    """Require the module's device, a type that promotes to the module's, and finite numbers."""
    own = next((each for each in (*module.parameters(), *module.buffers()) if each.is_floating_point()), None)
    numbers = {key: value for key, value in given.items() if value.is_floating_point()}
    if own is not None:
        for key, value in given.items():
            if value.device != own.device:
                raise ValueError(
                    f"{reader}: {key!r} is on the device {value.device}, expected {own.device}, that of the "
                    f"agent; move one of them with .to({str(own.device)!r}) or agent.to({str(value.device)!r})."
                )
        joint = own.dtype
        for value in numbers.values():
            joint = torch.promote_types(joint, value.dtype)
        narrow = numbers and all(value.dtype != own.dtype for value in numbers.values())
        if joint != own.dtype or narrow:
            key, value = next(each for each in numbers.items() if narrow or each[1].dtype != own.dtype)
            raise ValueError(
                f"{reader}: {key!r} has the dtype {value.dtype}, expected {own.dtype}, that of the agent; "
                f"convert it with .to({own.dtype})."
            )
    for key, value in numbers.items():
        if not value.isfinite().all():
            wrong = int((~value.isfinite()).sum())
            raise ValueError(
                f"{reader}: {wrong} of the {value.numel()} numbers in {key!r} are not finite (NaN or infinite), "
                "expected finite numbers; look for their cause, or leave those rows out."
            )
