"""What a dataset says of its problem, and whole numbers as they must be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import NestedKey
from torch import Tensor

from ctmrl_torchrl.data.fields import LARGEST_WHOLE, shown
from ctmrl_torchrl.rules import is_whole


@dataclass(frozen=True)
class DatasetSizes:
    """What a dataset says of its problem, without any environment.

    Args:
        observation_dim, action_dim: numbers of features.
        reward_keys: the rewards that are there; the last is the one whose sum is reported.
        horizon: the longest that a trajectory can be.
        discount: gamma, where the manifest says it.
    """

    observation_dim: int
    action_dim: int
    reward_keys: tuple[NestedKey, ...]
    horizon: int
    discount: float | None

    @property
    def return_key(self) -> NestedKey:
        """The reward whose sum is reported: the sparse one, where the data have both."""
        return self.reward_keys[-1]


def whole_numbers(values: Sequence[int] | Tensor, name: str) -> Tensor:
    """Return ``values`` as int64 ``[n]`` on the CPU; numbers are never rounded.

    Raises:
        ValueError: naming the argument and the first value that is not a whole number.

    Examples:
        >>> whole_numbers([2, 5], "task_ids")
        tensor([2, 5])
    """
    if isinstance(values, Tensor):
        given = values.reshape(-1).cpu()
        if not given.is_floating_point() and not given.is_complex() and given.dtype != torch.bool:
            return given.long()
        values = given.tolist()
    elif hasattr(values, "tolist"):
        values = values.tolist()
    values = [values] if not hasattr(values, "__iter__") else list(values)
    flat = [value.item() if hasattr(value, "item") else value for value in values]
    for value in flat:
        if not is_whole(value) or abs(value) > LARGEST_WHOLE:
            raise ValueError(f"{name} must be whole numbers, got {shown(value)} ({type(value).__name__})")
    return torch.tensor(flat, dtype=torch.int64, device="cpu")
