"""Passes over a graph leave its numbers alone: nothing is overwritten that is read again."""

from __future__ import annotations

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from ctmrl_torchrl.recorded.graphs import aten, copy_of, executable, reuse_memory, simplify


def twice(weight, x):
    """The ReLU's argument is read again after it."""
    product = x @ weight
    return product.relu() + product.exp(), None


def once(weight, x):
    return (x @ weight).relu(), None


def of_an_input(weight, x):
    """An input is not ours to overwrite."""
    return x.relu() + weight[0], None


def through_views(weight, x):
    return (x @ weight).view(2, 3, 4).transpose(0, 1).relu(), None


def of_itself(weight, x):
    """The second argument of the sum is a view of the first."""
    product = x @ weight
    return product + product.t()[:4].t(), None


def repeated(weight, x):
    """An expanded tensor holds each element several times."""
    return (x @ weight).mean(0).expand(6, 4) + weight.sum(), None


@pytest.mark.parametrize(
    ("function", "changed"),
    [(twice, 0), (once, 1), (of_an_input, 0), (through_views, 1), (of_itself, 0), (repeated, 0)],
)
def test_memory_is_reused_only_where_nothing_reads_it_again(function, changed):
    torch.manual_seed(0)
    weight, x = torch.randn(5, 4), torch.randn(6, 5)
    if function is of_an_input:
        weight = torch.randn(5, 5)
    module = make_fx(function, tracing_mode="real")(weight, x)
    simplify(module.graph)
    graph = copy_of(module.graph)
    assert reuse_memory(graph) == changed
    given = x.clone()
    (found, _), (expected, _) = executable(module, graph, [weight])(x), function(weight, x)
    assert torch.equal(found, expected) and torch.equal(x, given)


def test_what_changes_nothing_is_left_out():
    def function(weight, x):
        return (x.detach() @ weight).view(6, 4).expand(6, 4).detach(), None

    module = make_fx(function, tracing_mode="real")(torch.randn(5, 4), torch.randn(6, 5))
    simplify(module.graph)
    calls = [node.target for node in module.graph.nodes if node.op == "call_function"]
    assert calls == [aten.mm.default]


def test_bound_parameters_show_their_present_values():
    weight, x = torch.ones(5, 4), torch.ones(6, 5)
    module = make_fx(lambda weight, x: (x @ weight.t().t(), None), tracing_mode="real")(weight, x)
    run = executable(module, module.graph, [weight])
    weight.fill_(2.0)
    assert (run(x)[0] == 10.0).all()
