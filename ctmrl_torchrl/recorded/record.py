"""Records the operations of an update, forward and backward, as one graph of ATen operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

#: the losses of a batch, from a module that holds the parameters
Losses = Callable[[TensorDictBase], TensorDictBase]


class NotRecordableError(RuntimeError):
    """An update cannot be recorded; the message says why."""


class NoGradientError(NotRecordableError):
    """Nothing learns in this phase."""


@dataclass
class Recording:
    """The operations of an update, and what it computed while it was recorded.

    Args:
        graph (fx.GraphModule): from parameters and entries to losses and gradients.
        names (list of str): the losses' names. losses, gradients: their values in this update.
    """

    graph: fx.GraphModule
    names: list[str]
    losses: list[Tensor]
    gradients: list[Tensor | None]


def leaves_of(batch: TensorDictBase) -> dict[NestedKey, Tensor]:
    """The entries of a batch by key.

    Raises:
        NotRecordableError: if an entry is not an ordinary tensor.
    """
    leaves: dict[NestedKey, Tensor] = {}
    for key, value in batch.items(include_nested=True, leaves_only=True):
        if type(value) is not Tensor:
            raise NotRecordableError(f"the entry {key!r} of the batch is a {type(value).__name__}")
        leaves[key] = value
    return leaves


def record(
    losses_of: Losses,
    total: Callable[[TensorDictBase], Tensor],
    batch: TensorDictBase,
    leaves: dict[NestedKey, Tensor],
    parameters: Sequence[Tensor],
) -> Recording:
    """Run an update once and record its operations.

    The graph's inputs are the parameters and then the leaves. Gradients have the memory layout of their
    parameter.

    Raises:
        NotRecordableError: if the update has no gradient, or if what it does, or the shape of a result, depends
            on the values of tensors.
    """
    made: dict[str, Any] = {}

    def run(*inputs: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        seen = batch.copy()
        for key, value in zip(leaves, inputs[len(parameters) :], strict=True):
            seen.set(key, value)
        losses = losses_of(seen)
        loss = total(losses)
        if not isinstance(loss, Tensor) or not loss.requires_grad:
            raise NoGradientError("no term of the loss has a gradient in this phase")
        given = inputs[: len(parameters)]
        learned = [parameter for parameter in given if parameter.requires_grad]
        found = iter(torch.autograd.grad(loss, learned, allow_unused=True))
        gradients = [next(found) if parameter.requires_grad else None for parameter in given]
        made["names"] = [str(name) for name in losses.keys()]  # noqa: SIM118
        made["losses"] = [losses.get(name).detach() for name in made["names"]]
        made["gradients"] = [
            gradient if gradient is None or gradient.stride() == parameter.stride() else gradient.contiguous()
            for gradient, parameter in zip(gradients, parameters, strict=True)
        ]
        return tuple(made["losses"]), tuple(made["gradients"])

    try:
        graph = make_fx(run, tracing_mode="real")(*parameters, *leaves.values())
    except NotRecordableError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise NotRecordableError(
            f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
        ) from error
    for node in graph.graph.nodes:
        if _shape_depends_on_values(node):
            raise NotRecordableError(
                f"the shape of a result of {node.target} depends on the values of tensors"
            )
    return Recording(graph, made["names"], made["losses"], made["gradients"])


def _shape_depends_on_values(node: fx.Node) -> bool:
    """Whether a node's shape depends on the values of tensors, so that those of this update hold for it alone."""
    if torch.Tag.dynamic_output_shape not in getattr(node.target, "tags", ()):
        return False
    if node.target is not torch.ops.aten.index.Tensor:
        return True
    indices: Any = node.args[1]
    return any(each is not None and each.meta["val"].dtype in (torch.bool, torch.uint8) for each in indices)
