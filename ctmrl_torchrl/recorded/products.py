"""Matrix products by oneDNN instead of PyTorch's default library, with their bias and ReLU in the same kernel.

PyTorch multiplies float32 matrices with MKL, which on AMD processors uses half the width of their vector units.
oneDNN uses all of it. Sums are added in another order, so the numbers differ in their rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from ctmrl_torchrl.recorded.graphs import aten, is_call, is_view, shape_of

#: a product with fewer multiplications is not worth the call
_LEAST_WORK = 2**18
#: narrower results are faster as a product of a matrix and a few vectors
_LEAST_WIDTH = 4
#: a batch of more products stays one operator
_MOST_MEMBERS = 4


def has_onednn() -> bool:
    """Whether this build of PyTorch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def use_onednn(graph: fx.Graph) -> int:
    """Replace the larger matrix products of a graph, in place.

    Returns:
        the number of products replaced.
    """
    replaced = 0
    for node in list(graph.nodes):
        factors: Any = node.args
        if is_call(node, aten.mm.default) and _worth(*_sizes(*factors)):
            _replace(graph, node, _linear(graph, node, factors[0], factors[1], None))
        elif is_call(node, aten.addmm.default) and _adds_bias(node) and _worth(*_sizes(*factors[1:])):
            bias, left, right = factors
            _replace(graph, node, _linear(graph, node, left, right, bias))
        elif is_call(node, aten.bmm.default) and shape_of(node)[0] <= _MOST_MEMBERS:
            if not _worth(*_sizes(*factors)):
                continue
            _replace(graph, node, _linears(graph, node))
        else:
            continue
        replaced += 1
    graph.eliminate_dead_code()
    return replaced


def _sizes(left: Any, right: Any) -> tuple[int, int, int]:
    rows, inner = shape_of(left)[-2:]
    return rows, inner, shape_of(right)[-1]


def _worth(rows: int, inner: int, columns: int) -> bool:
    return rows * inner * columns >= _LEAST_WORK and min(rows, columns) >= _LEAST_WIDTH


def _adds_bias(node: fx.Node) -> bool:
    return not node.kwargs and shape_of(node.args[0]) == shape_of(node)[1:]  # pyright: ignore[reportArgumentType]


def _linear(graph: fx.Graph, node: fx.Node, left: Any, right: Any, bias: Any) -> fx.Node:
    """``left @ right + bias`` and, if nothing else reads that sum, the ReLU after it."""
    with graph.inserting_before(node):
        weight = graph.call_function(aten.t.default, (right,))
        weight.meta["val"] = right.meta["val"].mT
        activation = _relu_after(node) if bias is not None else None
        name = "none" if activation is None else "relu"
        made = graph.call_function(
            torch.ops.mkldnn._linear_pointwise.default, (left, weight, bias, name, [], "")
        )
    made.meta.update(val=node.meta["val"], new_memory=True)
    if activation is not None:
        activation.replace_all_uses_with(activation.args[0])  # pyright: ignore[reportArgumentType]
        graph.erase_node(activation)
    return made


def _relu_after(node: fx.Node) -> fx.Node | None:
    while len(node.users) == 1:
        user = next(iter(node.users))
        if is_call(user, aten.relu.default):
            return user
        if not is_view(user):
            return None
        node = user
    return None


def _linears(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A batch of products, one after the other."""
    left, right = node.args
    with graph.inserting_before(node):
        members = []
        for number in range(shape_of(node)[0]):
            pair = [graph.call_function(aten.select.int, (each, 0, number)) for each in (left, right)]
            weight = graph.call_function(aten.t.default, (pair[1],))
            members.append(
                graph.call_function(
                    torch.ops.mkldnn._linear_pointwise.default, (pair[0], weight, None, "none", [], "")
                )
            )
        made = graph.call_function(aten.stack.default, (members,))
    made.meta.update(val=node.meta["val"], new_memory=True)
    return made


def _replace(graph: fx.Graph, node: fx.Node, made: fx.Node) -> None:
    node.replace_all_uses_with(made)
    graph.erase_node(node)
