"""What tests of single terms share: drawn numbers, a mask of padding, the comparison with a slow version."""

from __future__ import annotations

import torch

#: three contexts of at most six transitions: a full one, a single transition, and four
MASK = torch.arange(6) < torch.tensor([[6], [1], [4]])


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def agree(fast, slow, *inputs):
    """Same value and same gradient to every input."""
    torch.testing.assert_close(fast, slow)
    for found, expected in zip(
        *(torch.autograd.grad(value.sum(), inputs, retain_graph=True) for value in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(found, expected)
