"""The arithmetic floor of an update: the time of its bare matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
_FACTORS = {aten.mm: 0, aten.bmm: 0, aten.addmm: 1, aten.baddbmm: 1}


class RecordProducts(TorchDispatchMode):
    """Notes shape and layout of the factors of every matrix product, forward and backward.

    Examples:
        >>> with RecordProducts() as products:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
        >>> products.gflop * 1e9
        48.0
    """

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operator; note it if it is a product."""
        first = _FACTORS.get(func.overloadpacket)
        if first is not None:
            left, right = args[first : first + 2]
            # Shapes and strides alone: the factors themselves would keep the whole graph alive.
            self.factors.append((left.detach().to("meta"), right.detach().to("meta")))
        return func(*args, **(kwargs or {}))

    @property
    def gflop(self) -> float:
        """Multiplications and additions, in billions."""
        return sum(2 * left.numel() * right.shape[-1] for left, right in self.factors) / 1e9

    def bare(self, device: torch.device | str = "cpu") -> Callable[[], None]:
        """The same products on random numbers, one after the other, into memory that is there already."""

        def like(factor: Tensor) -> Tensor:
            return torch.empty_strided(factor.shape, factor.stride(), device=device).normal_()

        largest = max(left.shape.numel() // left.shape[-1] * right.shape[-1] for left, right in self.factors)
        result, made, products = torch.empty(largest, device=device), {}, []
        for pair in self.factors:
            key = tuple((factor.shape, factor.stride()) for factor in pair)
            if key not in made:
                made[key] = tuple(like(factor) for factor in pair)
            left, right = made[key]
            shape = (*left.shape[:-1], right.shape[-1])
            products.append((left, right, result[: torch.Size(shape).numel()].view(shape)))

        def run() -> None:
            for left, right, out in products:
                torch.matmul(left, right, out=out)

        return run
