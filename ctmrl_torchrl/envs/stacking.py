"""Stacks the steps of an episode with one stack per entry and without checks of every entry of every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import LazyStackedTensorDict, TensorDict, TensorDictBase
from torch import Tensor


def stack_steps(steps: Sequence[TensorDictBase], dim: int) -> TensorDictBase:
    """Stack the steps of an episode, with the values of ``LazyStackedTensorDict.maybe_dense_stack``.

    Steps of one environment have the same entries in the same order, so that comparing their names suffices.
    Everything else is left to TensorDict: other containers, other names, entries that are no plain tensors,
    tensors of different shapes.

    Args:
        steps: at least one, with the same batch size.
        dim: the new dimension, counted from the first.

    Examples:
        >>> steps = [TensorDict({"reward": torch.full((3, 1), float(t))}, [3]) for t in range(2)]
        >>> stack_steps(steps, 1)["reward"].shape
        torch.Size([3, 2, 1])
    """
    stacked = _plain(steps, dim)
    return LazyStackedTensorDict.maybe_dense_stack(list(steps), dim) if stacked is None else stacked


def _plain(steps: Sequence[Any], dim: int) -> TensorDict | None:
    """The stack, or None if a step is not like the first one."""
    first = steps[0]
    device, size, entries = first.device, first.batch_size, []
    for step in steps:
        if type(step) is not TensorDict or step.device != device or step.batch_size != size:
            return None
        entries.append(dict(step.items()))
    names = entries[0].keys()
    if any(each.keys() != names for each in entries) or any(name is not None for name in first.names):
        return None
    stacked = {}
    for name in names:
        entry = _stack_entry([each[name] for each in entries], dim)
        if entry is None:
            return None
        stacked[name] = entry
    batch_size = torch.Size([*size[:dim], len(steps), *size[dim:]])
    return TensorDict(stacked, batch_size=batch_size, device=device)


def _stack_entry(values: list[Any], dim: int) -> Tensor | TensorDict | None:
    kind, shape = type(values[0]), values[0].shape
    if kind is TensorDict:
        return _plain(values, dim)
    if kind is not Tensor or any(type(value) is not Tensor or value.shape != shape for value in values):
        return None
    return torch.stack(values, dim)
