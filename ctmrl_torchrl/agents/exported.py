"""An agent as programs that need torch alone: neither this library nor TorchRL."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from os.path import lexists
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict, unravel_key
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.agents.card import AgentCard, AgentError, problem_of
from ctmrl_torchrl.agents.inputs import FLAGS, entry_sizes
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.storage import StorageError, atomic_write_bytes, atomic_write_text, resolved

#: names of the files: two programs, and what a caller must know of them
ACT, ENCODE, DESCRIPTION = "act.pt2", "encode.pt2", "exported.json"


class _Act(nn.Module):
    """The deterministic action of plain tensors."""

    def __init__(self, actor: TensorDictModuleBase) -> None:
        super().__init__()
        self.actor = actor

    def forward(self, observation: Tensor, task_context: Tensor) -> Tensor:
        batch = TensorDict(
            {"observation": observation, "task_context": task_context}, batch_size=observation.shape[:1]
        )
        with set_exploration_type(ExplorationType.DETERMINISTIC):
            return self.actor(batch).get(self.actor.out_keys[-1])


class _Encode(nn.Module):
    """The context of plain tensors, one for each key that the encoder reads."""

    def __init__(self, encoder: TensorDictModuleBase, keys: Sequence[NestedKey]) -> None:
        super().__init__()
        self.encoder, self.keys = encoder, list(keys)

    def forward(self, *inputs: Tensor) -> Tensor:
        view = TensorDict({}, batch_size=inputs[0].shape[:1])
        for key, value in zip(self.keys, inputs, strict=True):
            view.set(key, value)
        return self.encoder(view).get(self.encoder.out_keys[-1])


def _dtype(module: nn.Module) -> torch.dtype:
    """The floating point type of a module's weights."""
    tensors = (*module.parameters(), *module.buffers())
    return next((each.dtype for each in tensors if each.is_floating_point()), torch.float32)


def _encoder_inputs(
    encoder: TensorDictModuleBase, problem: Problem
) -> tuple[dict[str, NestedKey], dict[str, Tensor]]:
    """Keys and examples of the encoder's inputs, by the names that they have in the program."""
    sizes = entry_sizes(problem)
    keys: dict[str, NestedKey] = {}
    examples: dict[str, Tensor] = {}
    for key in encoder.in_keys:
        path = cast(tuple[str, ...], (key,) if isinstance(key, str) else unravel_key(key))
        rest = path[1:] if path[0] == "context" else path
        name = "_".join(rest)
        inner = rest[0] if len(rest) == 1 else rest
        if path[0] == "context" and inner in sizes:
            dtype = torch.bool if rest[-1] in FLAGS else _dtype(encoder)
            examples[name] = torch.zeros(2, 3, sizes[inner], dtype=dtype)
        elif key == "task_id":
            examples[name] = torch.zeros(2, dtype=torch.int64)
        else:
            raise AgentError(
                f"the agent cannot be exported: its encoder reads {key!r}, whose size is not known; "
                "only entries of transitions and task_id can be exported."
            )
        keys[name] = key
    mask_key = getattr(encoder, "mask_key", None)
    if mask_key is not None:
        keys["mask"] = mask_key
        examples["mask"] = torch.ones(2, 3, dtype=torch.bool)
    return keys, examples


def _program(module: nn.Module, examples: Sequence[Tensor], shapes: tuple[Any, ...]) -> bytes:
    """A module as a program for any number of rows and transitions, on the CPU."""
    program = torch.export.export(deepcopy(module).cpu().eval(), tuple(examples), dynamic_shapes=shapes)
    program.example_inputs = None  # zeros, which nobody needs
    content = io.BytesIO()
    torch.export.save(program, content)
    return content.getvalue()


@torch.no_grad()
def export_agent(
    folder: str | Path,
    card: AgentCard,
    context_encoder: TensorDictModuleBase,
    actor: TensorDictModuleBase,
    *,
    context_dim: int,
    candidates: Tensor | None = None,
) -> Path:
    """Write ``act.pt2``, ``encode.pt2`` and ``exported.json``; see :meth:`Agent.export
    <ctmrl_torchrl.agents.Agent.export>`.

    Args:
        folder: created if missing. card: its content becomes part of ``exported.json``.
        context_encoder, actor: the networks. context_dim: size d of a context.
        candidates: ``[N, d]``, contexts that protocol ``codes`` tries.

    Raises:
        AgentError: if the folder cannot be used or contains one of the files, or the encoder reads an entry
            of unknown size.
    """
    problem = problem_of(card.problem)
    keys, examples = _encoder_inputs(context_encoder, problem)
    try:
        folder = resolved(folder)
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:  # including StorageError
        raise AgentError(f"{folder} cannot be used for an agent: {error}") from error
    there = next((folder / name for name in (ACT, ENCODE, DESCRIPTION) if lexists(folder / name)), None)
    if there is not None:
        raise AgentError(f"{there} exists and is not replaced; choose another folder, or move it away.")
    rows, length = torch.export.Dim("rows", min=1), torch.export.Dim("length", min=1)
    dtype = _dtype(actor)
    state = tuple(torch.zeros(2, size, dtype=dtype) for size in (problem.observation_dim, context_dim))
    act = _program(_Act(actor), state, ({0: rows}, {0: rows}))
    evidence = list(examples.values())
    shapes = tuple(dict(enumerate((rows, length)[: value.ndim])) for value in evidence)
    encode = _program(_Encode(context_encoder, list(keys.values())), evidence, (shapes,))
    description = {
        "encode": [
            {"name": name, "shape": ["n", "L", *value.shape[2:]][: value.ndim], "dtype": str(value.dtype)}
            for name, value in examples.items()
        ],
        "context_dim": context_dim,
        "candidates": None if candidates is None else candidates.tolist(),
        "card": replace(card, weights="").to_dict(),
    }
    try:
        atomic_write_bytes(folder / ACT, act)
        atomic_write_bytes(folder / ENCODE, encode)
        atomic_write_text(folder / DESCRIPTION, json.dumps(description, indent=1, allow_nan=False) + "\n")
    except StorageError as error:
        raise AgentError(f"the agent could not be exported: {error}") from error
    return folder
