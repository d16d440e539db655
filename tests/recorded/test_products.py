"""oneDNN's products are those of PyTorch within rounding, forward, backward and in batches."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.recorded import RecordedGradients, has_onednn
from ctmrl_torchrl.recorded.graphs import copy_of, executable, simplify
from ctmrl_torchrl.recorded.products import use_onednn
from ctmrl_torchrl.recorded.record import leaves_of, record

pytestmark = pytest.mark.skipif(not has_onednn(), reason="this build of PyTorch has no oneDNN")
ROWS, WIDTH = 64, 64  # the smallest product that is replaced


class Networks(nn.Module):
    """A network, and two more whose products form a batch."""

    recordable = True

    def __init__(self, width=WIDTH):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.pair = nn.Parameter(torch.randn(2, width, width) / width**0.5)

    def forward(self, batch):
        shared = self.network(batch["x"])
        both = torch.bmm(shared.expand(2, *shared.shape), self.pair).relu()
        return TensorDict({"loss_both": (both - 1.0).square().mean() + shared.mean()}, [])


def recorded(width=WIDTH):
    torch.manual_seed(0)
    loss, batch = Networks(width), TensorDict({"x": torch.randn(ROWS, width)}, [ROWS])
    leaves = leaves_of(batch)
    recording = record(
        loss, lambda losses: losses["loss_both"], batch, leaves, parameters := list(loss.parameters())
    )
    simplify(recording.graph.graph)
    return recording, parameters, leaves


def test_products_and_their_gradients_are_the_same_numbers():
    recording, parameters, leaves = recorded()
    graph = copy_of(recording.graph.graph)
    # forward: two layers and the pair; backward: three of weights, two of inputs
    assert use_onednn(graph) == 8
    code = [str(node.target) for node in graph.nodes]
    assert not any(target in ("aten.mm.default", "aten.bmm.default", "aten.addmm.default") for target in code)
    # both activations of the network are in the kernel of its product; the pair has no bias
    assert code.count("aten.relu.default") == 1
    losses, gradients = executable(recording.graph, graph, parameters)(*leaves.values())
    torch.testing.assert_close(losses[0], recording.losses[0])
    for found, expected in zip(gradients, recording.gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
        assert found.stride() == expected.stride()


def test_small_products_stay_as_they_are():
    recording, *_ = recorded(width=32)
    assert use_onednn(copy_of(recording.graph.graph)) == 0


def test_training_by_onednn_stays_close_to_training_as_written():
    found = []
    for onednn in (False, True):
        torch.manual_seed(0)
        loss = Networks()
        gradients = RecordedGradients(
            loss, list(loss.parameters()), lambda losses: losses["loss_both"], onednn=onednn, patience=0
        )
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.1)
        for _ in range(5):
            values = gradients(TensorDict({"x": torch.randn(ROWS, WIDTH)}, [ROWS]))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        assert gradients.recordings == 1
        found.append([values["loss_both"], *(each.detach() for each in loss.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
