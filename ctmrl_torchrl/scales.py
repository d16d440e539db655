"""Distinguishes real variation from rounding error, relative to the magnitude of the values."""

from __future__ import annotations

import torch
from torch import Tensor

#: a standard deviation of at most this fraction of the magnitude can be float32 rounding noise (8 units of it)
ROUNDING = 8 * torch.finfo(torch.float32).eps


def varies(spread: Tensor, magnitude: Tensor) -> Tensor:
    """Whether values vary, or are constant up to float32 rounding.

    The test does not depend on the unit: rewards of 1e-9 that differ by 1e-9 vary, but a float32 clock near
    1000 s whose steps differ by 1e-5 s does not.

    Args:
        spread: standard deviations, any shape.
        magnitude: magnitude of the rounded values, broadcastable to ``spread``: the largest absolute value or the
            absolute mean. For differences of rounded values (the change of an observation), it is the magnitude
            of the operands rather than of the differences, because that is where rounding happened.

    Returns:
        bool, with the shape of ``spread``. NaN counts as varying, so that it remains visible.

    Examples:
        >>> varies(torch.tensor([1e-9, 1e-5, 0.0]), magnitude=torch.tensor([1e-9, 1e3, 0.0])).tolist()
        [True, False, False]
    """
    smallest = torch.finfo(spread.dtype).tiny
    return ~(spread <= (magnitude.abs().to(spread.dtype) * ROUNDING).clamp(min=smallest))


def usable_scale(mean: Tensor, spread: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """The divisor for standardization: the standard deviation, or one for constant values.

    A constant carries no information. Divided by one, it is (almost) zero after centering. Divided by its
    rounding noise, it would become noise of unit variance.

    Args:
        mean: mean of each feature.
        spread: standard deviation of each feature, same shape.
        magnitude: see :func:`varies`; None means the absolute mean.

    Returns:
        A new tensor with the shape of ``spread``.

    Raises:
        ValueError: if the shapes of ``mean`` and ``spread`` differ.

    Examples:
        >>> mean, spread = torch.tensor([1e-7, 1000.0]), torch.tensor([2.0**-23, 1e-5])
        >>> usable_scale(mean, spread).log2().tolist()
        [-23.0, 0.0]

        The steps of a 0.05 s clock, which differ only by rounding:

        >>> step, noise = torch.tensor([0.05]), torch.tensor([2e-5])
        >>> usable_scale(step, noise, magnitude=torch.tensor([1000.0])).tolist()
        [1.0]
    """
    if mean.shape != spread.shape:
        raise ValueError(
            f"mean has shape {list(mean.shape)} but spread {list(spread.shape)}; give one of each per "
            "feature."
        )
    scale = varies(spread, mean if magnitude is None else magnitude)
    return torch.where(scale, spread, torch.ones_like(spread))
