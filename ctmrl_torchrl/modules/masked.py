"""Means over the valid entries of padded tensors."""

from __future__ import annotations

from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None, dim: int = -1) -> Tensor:
    """Mean over valid entries; a row without valid entries has mean 0.

    The mean does not depend on what padding holds, also if that is not finite. Gradients that flow on from here
    to networks are finite only if the padding of their inputs is, as that of the samplers (zeros).

    Args:
        values (Tensor): ``[*, L]`` or, with ``dim=-2``, ``[*, L, d]``.
        mask (Tensor or None): ``[*, L]`` boolean, true where an entry counts.
        dim (int): the dimension L of the values, -1 or -2.

    Examples:
        >>> import torch
        >>> masked_mean(torch.tensor([[1.0, 3.0, torch.inf]]), torch.tensor([[True, True, False]]))
        tensor([2.])
    """
    if mask is None:
        return values.mean(dim)
    valid = mask if dim == -1 else mask.unsqueeze(-1)
    return values.masked_fill(~valid, 0.0).sum(dim) / valid.sum(dim).clamp_min(1)
