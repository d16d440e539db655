"""Problem sizes inferred from a dataset, and validation of integers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import NestedKey
from torch import Tensor

from ctmrl_torchrl.data.fields import LARGEST_WHOLE, shown
from ctmrl_torchrl.rules import is_whole


@dataclass(frozen=True)
class DatasetSizes:
    """Problem sizes inferred from a dataset, without an environment.

    Args:
        observation_dim, action_dim: numbers of features.
        reward_keys: the available rewards; the sum of the last one is reported.
        horizon: maximum trajectory length.
        discount: gamma, if the manifest defines it.
    """

    observation_dim: int
    action_dim: int
    reward_keys: tuple[NestedKey, ...]
    horizon: int
    discount: float | None

    @property
    def return_key(self) -> NestedKey:
        """The reward whose sum is reported: the sparse one if the data have both."""
        return self.reward_keys[-1]


def whole_numbers(values: Iterable[int] | Tensor | int, name: str) -> Tensor:
    """Return ``values`` as int64 ``[n]`` on the CPU; numbers are never rounded.

    Raises:
        ValueError: with the argument and the first value that is not an integer.

    Examples:
        >>> whole_numbers([2, 5], "task_ids")
        tensor([2, 5])
    """
    if isinstance(values, Tensor):
        given = values.reshape(-1).cpu()
        if not given.is_floating_point() and not given.is_complex() and given.dtype != torch.bool:
            return given.long()
        listed: Any = given.tolist()
    else:
        array: Any = values
        listed = array.tolist() if hasattr(array, "tolist") else array
    listed = [listed] if not hasattr(listed, "__iter__") else list(listed)
    flat = [value.item() if hasattr(value, "item") else value for value in listed]
    for value in flat:
        if not is_whole(value) or abs(value) > LARGEST_WHOLE:
            raise ValueError(f"{name} must be integers, got {shown(value)} ({type(value).__name__})")
    return torch.tensor(flat, dtype=torch.int64, device="cpu")
