"""What a recording does with a CUDA graph, shown without a GPU: the graph is replaced, its memory is not."""

from __future__ import annotations

import pytest
import torch
from test_gradients import batches, pair

from ctmrl_torchrl.recorded import gradients
from ctmrl_torchrl.recorded.captured import require_on_gpu


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Recordings are captured by what a test gives; random numbers are the CPU's."""

    def use(capture, check=lambda recording: None):
        monkeypatch.setattr(gradients, "captured", capture)
        monkeypatch.setattr(gradients, "require_on_gpu", check)
        monkeypatch.setattr(gradients, "random_states", lambda device: [torch.get_rng_state()])
        monkeypatch.setattr(
            gradients, "set_random_states", lambda states, device: torch.set_rng_state(states[0])
        )
        monkeypatch.setattr(gradients.RecordedGradients, "gpu", torch.device("cuda"))
        return pair(patience=0)

    return use


def in_the_same_memory(run, entries, device):
    """Writes the gradients of every call to where those of the first are, as a graph does."""
    place: list = []

    def replay(*entries):
        losses, found = run(*entries)
        place[:] = place or [each.clone() for each in found]
        for held, each in zip(place, found, strict=True):
            held.copy_(each)
        return losses, tuple(place)

    return replay


def test_gradients_add_up_although_a_graph_overwrites_them(as_on_a_gpu):
    (plain, written), (loss, recorded) = as_on_a_gpu(in_the_same_memory)
    for call in (written.as_written, recorded):
        torch.manual_seed(3)
        for batch in batches(3):
            call(batch)
    assert recorded.recordings == 1
    for one, other in zip(plain.parameters(), loss.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_tensors_on_the_cpu_are_not_captured(as_on_a_gpu, caplog):
    """The whole update runs on the CPU here, so that the first operand is named and all runs as written."""
    (plain, written), (loss, recorded) = as_on_a_gpu(in_the_same_memory, require_on_gpu)
    with caplog.at_level("INFO", logger="torchrl"):
        for call in (written.as_written, recorded):
            torch.manual_seed(3)
            call(batches(1)[0])
    assert recorded.recordings == 0
    assert "has a tensor on cpu, where a CUDA graph cannot read" in caplog.text
    assert all(
        torch.equal(one.grad, other.grad)
        for one, other in zip(plain.parameters(), loss.parameters(), strict=True)
    )


def test_few_graphs_are_kept(as_on_a_gpu):
    """Each holds the memory of an update."""
    _, (_, recorded) = as_on_a_gpu(in_the_same_memory)
    for rows in range(2, 9):
        recorded(batches(1, rows)[0])
    assert recorded.recordings == 4
