"""Means and standard deviations of a dataset's features, computed in blocks for data larger than memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor

from ctmrl_torchrl.data.layout import REWARD_KEYS, row_blocks
from ctmrl_torchrl.scales import varies
from ctmrl_torchrl.typed import total

#: mean and standard deviation of each feature, float32 ``[features]``
Statistics = tuple[Tensor, Tensor]

CHANGE = "observation_change"
_FOLLOWING = ("next", "observation")


def statistics_of(
    transitions: TensorDictBase, ranges: Sequence[tuple[int, int]], rewards: Sequence[NestedKey] = REWARD_KEYS
) -> dict[NestedKey, Statistics]:
    """Return mean and standard deviation of every feature over some rows.

    A standard deviation within the rounding error of the stored numbers is set to 0, as determined by
    :func:`ctmrl_torchrl.scales.varies`. For example, a clock at 1000 s in float32 has a constant change per step
    up to rounding.

    Args:
        transitions: the rows of a dataset.
        ranges: start and end (exclusive) of each range of rows.
        rewards: keys of the rewards.

    Returns:
        by key, with ``"observation_change"`` for the next observation minus the observation.
    """
    blocks = [block for first, stop in ranges for block in row_blocks(first, stop)]
    available = transitions.keys(include_nested=True)
    keys = ("observation", "action", _FOLLOWING, *rewards)
    moments = {
        key: _moments(functools.partial(_read, transitions[key]), blocks) for key in keys if key in available
    }
    size = {key: (mean.square() + variance).sqrt() for key, (mean, variance) in moments.items()}
    moments[CHANGE] = _moments(functools.partial(_change, transitions), blocks)
    size[CHANGE] = torch.maximum(size["observation"], size[_FOLLOWING])
    return {
        key: (mean.float(), (variance.sqrt() * varies(variance.sqrt(), size[key])).float())
        for key, (mean, variance) in moments.items()
    }


def _read(tensor: Tensor, block: slice) -> Tensor:
    return tensor[block].double()


def _change(transitions: TensorDictBase, block: slice) -> Tensor:
    return transitions[_FOLLOWING][block].double() - transitions["observation"][block].double()


def _moments(read: Callable[[slice], Tensor], blocks: list[slice]) -> tuple[Tensor, Tensor]:
    """Mean and variance, float64, in two passes."""
    count = sum(block.stop - block.start for block in blocks)
    mean = total(read(block).sum(0) for block in blocks) / count
    variance = total((read(block) - mean).square().sum(0) for block in blocks) / count
    return mean, variance
