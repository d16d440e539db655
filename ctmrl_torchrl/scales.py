"""When a spread of values is a spread at all, judged relative to the values and never in absolute units."""

from __future__ import annotations

import torch
from torch import Tensor

#: a spread of at most this share of the values' magnitude can be rounding noise of float32 (8 units of it)
ROUNDING = 8 * torch.finfo(torch.float32).eps


def varies(spread: Tensor, magnitude: Tensor) -> Tensor:
    """Whether values really vary, or are constant but for the rounding of float32.

    The unit does not matter: rewards of 1e-9 that differ by 1e-9 vary, and a clock of float32 seconds near
    1000 whose steps differ by 1e-5 does not.

    Args:
        spread: standard deviations, any shape.
        magnitude: of the values that were rounded, broadcastable to ``spread``: the largest absolute value or
            the absolute mean. For differences of rounded values (the change of an observation) it is the
            magnitude of what was subtracted, not of the differences, since that is where rounding happened.

    Returns:
        bool, with the shape of ``spread``. NaN counts as varying, so that it is not hidden.

    Examples:
        >>> varies(torch.tensor([1e-9, 1e-5, 0.0]), magnitude=torch.tensor([1e-9, 1e3, 0.0])).tolist()
        [True, False, False]
    """
    smallest = torch.finfo(spread.dtype).tiny
    return ~(spread <= (magnitude.abs().to(spread.dtype) * ROUNDING).clamp(min=smallest))


def usable_scale(mean: Tensor, spread: Tensor, magnitude: Tensor | None = None) -> Tensor:
    """What to divide by: the spread, and one where the values are constant.

    A constant carries no information. Divided by one it stays (almost) zero after its mean is subtracted;
    divided by its rounding noise it would become noise of unit variance.

    Args:
        mean: mean of each feature.
        spread: standard deviation of each feature, same shape.
        magnitude: see :func:`varies`; None takes the absolute mean.

    Returns:
        A new tensor with the shape of ``spread``.

    Raises:
        ValueError: if the shapes of ``mean`` and ``spread`` differ.

    Examples:
        >>> mean, spread = torch.tensor([1e-7, 1000.0]), torch.tensor([2.0**-23, 1e-5])
        >>> usable_scale(mean, spread).log2().tolist()
        [-23.0, 0.0]

        The steps of a clock of 0.05 s, which differ by rounding alone:

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
