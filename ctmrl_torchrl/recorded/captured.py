"""A recording as a CUDA graph, which a GPU runs without waiting for Python to launch each operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ctmrl_torchrl.recorded.record import NotRecordableError, Recording

#: a recording that can be run: from a batch's entries to losses and gradients
Run = Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]]


def require_on_gpu(recording: Recording) -> None:
    """Check that a recording reads and computes tensors of GPUs alone.

    A graph would keep the present value of a number on the CPU, and cannot copy from there.

    Raises:
        NotRecordableError: naming the first operator or input whose tensor is elsewhere.
    """
    for node in recording.graph.graph.nodes:
        constant = node.op == "get_attr"
        value = getattr(recording.graph, str(node.target)) if constant else node.meta.get("val")
        if isinstance(value, Tensor) and value.device.type != "cuda":
            raise NotRecordableError(
                f"{node.target} has a tensor on {value.device}, where a CUDA graph cannot read; create it on the "
                "module's device, or register it as a buffer"
            )


def captured(run: Run, entries: Sequence[Tensor], device: torch.device) -> Run:
    """The same function of the entries, captured once and then replayed.

    Losses are new tensors in every call. Gradients are always the same memory, which the next call overwrites.

    Args:
        run: operators on tensors of ``device``, without a result that Python reads.
        entries: of the shapes and dtypes of every later call.
        device: the GPU.

    Raises:
        NotRecordableError: if an operator cannot be captured.
    """
    inputs = [torch.empty_like(entry).copy_(entry) for entry in entries]
    with torch.cuda.device(device):
        present, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        graph = torch.cuda.CUDAGraph()
        aside.wait_stream(present)
        try:
            with torch.cuda.stream(aside):  # the libraries allocate their workspaces in a first call
                run(*inputs)
            present.wait_stream(aside)
            with torch.cuda.graph(graph, stream=aside):
                losses, gradients = run(*inputs)
        except RuntimeError as error:
            torch.cuda.set_stream(present)
            _end_failed_capture(aside, device)
            cause = str(error.__context__ or error).strip().splitlines()
            raise NotRecordableError(f"CUDA graph: {cause[0] if cause else 'no message'}") from error

    def replay(*entries: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]:
        for held, entry in zip(inputs, entries, strict=True):
            held.copy_(entry)
        graph.replay()
        return tuple(loss.clone() for loss in losses), gradients

    return replay


def _end_failed_capture(stream: torch.cuda.Stream, device: torch.device) -> None:
    """Capture something trivial, because the random generator believes that a failed capture goes on."""
    with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=stream):
        torch.zeros((), device=device)
