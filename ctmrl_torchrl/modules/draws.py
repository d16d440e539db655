"""Random numbers from an explicit generator, on any combination of devices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def normal_like(
    like: Tensor, shape: Sequence[int] | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Standard normal numbers with the dtype and device of a tensor.

    Args:
        like (Tensor): determines dtype, device and, if ``shape`` is None, the shape.
        shape (sequence of int, optional): shape of the result.
        generator (torch.Generator, optional): samples on its own device; defaults to the global generator.

    Examples:
        >>> normal_like(torch.zeros(2, 3, dtype=torch.float64), [4]).dtype
        torch.float64
    """
    device = like.device if generator is None else generator.device
    size = like.shape if shape is None else shape
    return torch.randn(tuple(size), generator=generator, device=device, dtype=like.dtype).to(like.device)


def uniform(
    shape: Sequence[int], generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """Uniform numbers in [0, 1), in double precision so that they can index large ranges.

    Args:
        shape (sequence of int): shape of the result. device (torch.device, optional): device of the result.
        generator (torch.Generator, optional): samples them on its own device.

    Examples:
        >>> uniform([5]).mul(3).long().max() < 3
        tensor(True)
    """
    place = device if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=place, dtype=torch.float64).to(
        device or place
    )
