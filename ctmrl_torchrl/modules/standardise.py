"""Affine maps between raw units and unit variance. Statistics are buffers, so checkpoints include them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrl.modules import MLP

from ctmrl_torchrl.scales import usable_scale

#: mean and standard deviation of each feature, ``[features]``
Statistics = tuple[Tensor, Tensor]


def finer(statistics: Statistics, gain: float | None) -> Statistics | None:
    """Statistics that standardize to a standard deviation of ``gain`` instead of 1; None for None."""
    return None if gain is None else (statistics[0], usable_scale(*statistics) / gain)


class _Affine(nn.Module):
    loc: Tensor
    scale: Tensor

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        loc, scale = torch.as_tensor(loc), torch.as_tensor(scale)
        if loc.shape != scale.shape:
            raise ValueError(
                f"{type(self).__name__}: loc has shape {tuple(loc.shape)} but scale {tuple(scale.shape)}; "
                "give one value of each per feature."
            )
        self.register_buffer("loc", loc.clone())
        self.register_buffer("scale", usable_scale(loc, scale))


class Standardise(_Affine):
    """``(x - loc) / scale`` over the last dimension.

    Args:
        loc (Tensor): mean of each feature, shape ``[features]``.
        scale (Tensor): standard deviation of each feature, same shape; a scale of zero is replaced by one.

    Raises:
        ValueError: if the two shapes differ.

    Examples:
        >>> import torch
        >>> Standardise(torch.tensor([1.0]), torch.tensor([2.0]))(torch.tensor([5.0]))
        tensor([2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map raw units to unit variance."""
        return (x - self.loc) / self.scale


class Unstandardise(_Affine):
    """``loc + scale * x`` over the last dimension: the inverse of :class:`Standardise`.

    Examples:
        >>> import torch
        >>> Unstandardise(torch.tensor([1.0]), torch.tensor([2.0]))(torch.tensor([2.0]))
        tensor([5.])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map unit variance back to raw units."""
        return self.loc + self.scale * x


class StandardisedMLP(nn.Module):
    """A ReLU network on several inputs that standardizes the first one (the observation).

    Args:
        in_features, out_features (int): sizes; ``in_features`` is the total over inputs.
        hidden (sequence of int): hidden layers.
        statistics (Statistics, optional): shift and scale of the observation. With a smaller scale, the
            network learns finer differences first.

    Examples:
        >>> network = StandardisedMLP(3, 1, [8], (torch.zeros(2), torch.full((2,), 0.1)))
        >>> network(torch.zeros(5, 2), torch.zeros(5, 1)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self, in_features: int, out_features: int, hidden: Sequence[int], statistics: Statistics | None = None
    ) -> None:
        super().__init__()
        self.standardise = nn.Identity() if statistics is None else Standardise(*statistics)
        self.network = MLP(
            in_features=in_features,
            out_features=out_features,
            num_cells=list(hidden),
            activation_class=nn.ReLU,
        )

    def forward(self, observation: Tensor, *others: Tensor) -> Tensor:
        """Inputs ``[*, features]``, concatenated after standardizing the observation."""
        return self.network(self.standardise(observation), *others)
