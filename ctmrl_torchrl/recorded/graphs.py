"""Passes over a recorded graph that leave every number as it was: fewer operators, and results in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

aten = torch.ops.aten

#: operators whose result is another view of their first argument
VIEWS = frozenset(
    {
        aten.alias.default,
        aten.detach.default,
        aten.expand.default,
        aten.permute.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.squeeze.dim,
        aten.t.default,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
        aten._unsafe_view.default,
    }
)
#: operators whose result is new memory, which the next operator may reuse
_NEW = frozenset({aten.addmm.default, aten.mm.default, aten.bmm.default, aten.add.Tensor, aten.mul.Tensor})


def is_call(node: Any, *targets: Any) -> bool:
    """Whether a node calls one of these operators."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def shape_of(node: fx.Node) -> torch.Size:
    """The shape of a node's value."""
    return node.meta["val"].shape


def is_view(node: fx.Node) -> bool:
    """Whether a node is a view of its first argument."""
    return node.op == "call_function" and node.target in VIEWS


def simplify(graph: fx.Graph) -> None:
    """Remove operators that change nothing, in place.

    ``detach`` does nothing without autograd, nor does a view of the same shape, nor a product with 1.
    """
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        same_shape = is_call(node, aten.expand.default, aten.view.default, aten._unsafe_view.default) and (
            shape_of(node) == shape_of(node.args[0])
        )
        once = is_call(node, aten.mul.Scalar) and node.args[1] == 1 and _only_read(node)
        if same_shape or once or is_call(node, aten.detach.default):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _only_read(node: fx.Node) -> bool:
    """Whether no user writes into a node's value and its dtype is that of its argument."""
    argument: Any = node.args[0]
    kept = node.meta["val"].dtype == argument.meta["val"].dtype
    return kept and all(is_call(user, aten.view.default, aten.add.Tensor) for user in node.users)


def reuse_memory(graph: fx.Graph) -> int:
    """Let ReLU, its backward pass and sums write into an argument that nothing else reads, in place.

    Returns:
        the number of operators changed.
    """
    changed = 0
    for node in list(graph.nodes):
        if is_call(node, aten.relu.default) and _free(node.args[0]):
            node.target = aten.relu_.default
        elif (
            is_call(node, aten.threshold_backward.default)
            and _free(node.args[0])
            and _alike(node.args[0], node)
            and _alike(node.args[1], node)
        ):
            node.target = aten.threshold_backward.grad_input
            node.kwargs = {"grad_input": node.args[0]}
        elif is_call(node, aten.add.Tensor) and len(node.args) == 2 and not node.kwargs:
            if not _sum_in_place(node):
                continue
        else:
            continue
        changed += 1
    return changed


def _sum_in_place(node: fx.Node) -> bool:
    """Addition commutes, so either argument may take the sum."""
    for first, second in (node.args, node.args[::-1]):
        if (
            isinstance(first, fx.Node)
            and isinstance(second, fx.Node)
            and _source(first) is not _source(second)
            and _free(first)
            and _alike(first, node)
        ):
            node.target, node.args = aten.add_.Tensor, (first, second)
            return True
    return False


def _source(node: fx.Node) -> fx.Node:
    while is_view(node):
        node = node.args[0]  # pyright: ignore[reportAssignmentType] (a view's first argument is a node)
    return node


def _free(node: Any) -> bool:
    """Whether a node's memory is new, holds no element twice, and is read by one operator."""
    while isinstance(node, fx.Node) and len(node.users) == 1:
        if is_view(node) and node.target is not aten.expand.default:
            node = node.args[0]
        else:
            return node.op == "call_function" and (node.target in _NEW or "new_memory" in node.meta)
    return False


def _alike(first: Any, second: fx.Node) -> bool:
    """Whether two nodes have the same shape, layout and dtype."""
    if not isinstance(first, fx.Node):
        return False
    one, other = first.meta["val"], second.meta["val"]
    return one.shape == other.shape and one.stride() == other.stride() and one.dtype == other.dtype


def copy_of(graph: fx.Graph) -> fx.Graph:
    """A copy of a graph whose nodes have the same metadata."""
    copy, made = fx.Graph(), {}
    for node in graph.nodes:
        made[node] = copy.node_copy(node, lambda argument: made[argument])
    return copy


def executable(
    recorded: fx.GraphModule, graph: fx.Graph, parameters: Sequence[Tensor]
) -> Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]]:
    """A function of the entries alone that runs a graph.

    Parameters and constants are bound. So are views of them: they show the present values of the memory.

    Args:
        recorded: holds the graph's constants. graph: the operators. parameters: the first inputs.
    """
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    bound: dict[fx.Node, Tensor] = {
        node: parameter.detach() for node, parameter in zip(inputs, parameters, strict=False)
    }
    for node in graph.nodes:
        if node.op == "get_attr":
            bound[node] = getattr(recorded, str(node.target)).detach()
        elif is_view(node) and node.args[0] in bound:
            bound[node] = node.target(bound[node.args[0]], *node.args[1:], **node.kwargs)
    used = [node for node in bound if any(user not in bound for user in node.users)]
    final, made = fx.Graph(), {}
    for node in inputs[len(parameters) :]:
        made[node] = final.placeholder(node.name)
    for number, node in enumerate(used):
        made[node] = final.placeholder(f"bound_{number}")
    for node in graph.nodes:
        if node not in bound and node.op != "placeholder":
            made[node] = final.node_copy(node, lambda argument: made[argument])
    values = [bound[node] for node in used]
    operations = fx.GraphModule({}, final).forward

    def run(*entries: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        with torch.no_grad():
            return operations(*entries, *values)

    return run
