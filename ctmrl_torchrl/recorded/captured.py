"""A recording as a CUDA graph, which a GPU runs without waiting for Python to launch each operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

#: a recording that can be run: from a batch's entries to losses and gradients
Run = Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]]


def captured(run: Run, entries: Sequence[Tensor], device: torch.device) -> Run:
    """The same function of the entries, captured once and then replayed.

    Losses are new tensors in every call. Gradients are always the same memory, which the next call overwrites.

    Args:
        run: operators on tensors of ``device``, without a result that Python reads.
        entries: of the shapes and dtypes of every later call.
        device: the GPU.

    Raises:
        RuntimeError: if an operator cannot be captured, e.g. one that copies from the CPU.
    """
    inputs = [torch.empty_like(entry).copy_(entry) for entry in entries]
    with torch.cuda.device(device):
        present, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(present)
        with torch.cuda.stream(aside):  # the libraries allocate their workspaces in a first call
            run(*inputs)
        present.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses, gradients = run(*inputs)

    def replay(*entries: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        for held, entry in zip(inputs, entries, strict=True):
            held.copy_(entry)
        graph.replay()
        return tuple(loss.clone() for loss in losses), gradients

    return replay
