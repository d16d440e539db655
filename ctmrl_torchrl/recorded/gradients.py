"""Gradients of a loss by a recording of its operations, which is made once for every phase of a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.recorded.captured import captured, require_on_gpu
from ctmrl_torchrl.recorded.graphs import copy_of, executable, reuse_memory, simplify
from ctmrl_torchrl.recorded.products import use_onednn
from ctmrl_torchrl.recorded.record import (
    NoGradientError,
    NotRecordableError,
    Recording,
    leaves_of,
    record,
)
from ctmrl_torchrl.recorded.state import (
    PythonState,
    copied,
    equal,
    module_tensors,
    random_states,
    restore,
    set_random_states,
    unknown_module,
)

#: recordings kept at a time; more are needed only if the shapes of a batch vary
_MOST = 16
#: on a GPU, where each holds the memory of an update
_MOST_ON_GPU = 4
#: updates after which a recording has earned back the time of making it, at small sizes
_PATIENCE = 50


@dataclass
class _Program:
    """A recording that can be run, and what it depends on."""

    inputs: tuple[Any, ...]
    python: tuple[Any, ...]
    names: list[str]
    run: Callable[..., tuple[tuple[Tensor, ...], tuple[Tensor | None, ...]]] | None
    seen: int = 0
    refused: bool = False


class RecordedGradients:
    """Computes losses and gradients by repeating recorded operations, without modules, TensorDicts and autograd.

    A recording belongs to the shapes of a batch and to the plain Python values of the module, such as its phase.
    If one of these changes, the next update runs as written, and is recorded once that has happened
    ``patience`` times. A new recording is run next to the update it was made of and is used only if losses,
    gradients, buffers and random numbers agree bit for bit. On a GPU, it is replayed as a CUDA graph.

    An update that cannot be recorded runs as written: if the module contains a class of another package without
    the attribute ``recordable = True``, has hooks or a random generator of its own, counts in Python, or depends
    on the values of tensors in Python or in the shape of a result, as ``x[mask]`` does.

    Args:
        module (nn.Module): called with a batch; returns losses by name.
        parameters (sequence of Tensor): those whose ``grad`` to set. Gradients of several calls add up. On a GPU,
            a call overwrites the tensors that the call before set as ``grad``; clone those that must last.
        total (callable): the loss to differentiate, from all losses.

    Keyword Args:
        onednn (bool): compute matrix products by oneDNN. They are faster on some processors; numbers differ in
            their rounding. Every update is then recorded before it is run, so that results do not depend on
            ``patience``.
        patience (int): updates before a recording, without ``onednn``. A recording takes as long as some tens
            of updates.

    Raises:
        NotRecordableError: by a call, with ``onednn``, if the update cannot be recorded.

    Examples:
        >>> from torch.nn import functional
        >>> class Regression(nn.Module):
        ...     recordable = True
        ...
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Linear(2, 1)
        ...
        ...     def forward(self, batch):
        ...         error = functional.mse_loss(self.network(batch["x"]), batch["y"])
        ...         return TensorDict({"loss_error": error}, [])
        >>> loss = Regression()
        >>> gradients = RecordedGradients(
        ...     loss, list(loss.parameters()), lambda losses: losses["loss_error"], patience=0
        ... )
        >>> batch = TensorDict({"x": torch.randn(5, 2), "y": torch.randn(5, 1)}, [5])
        >>> gradients(batch)["loss_error"].requires_grad, loss.network.weight.grad.shape
        (False, torch.Size([1, 2]))
        >>> gradients.recordings
        1
    """

    def __init__(
        self,
        module: nn.Module,
        parameters: Sequence[Tensor],
        total: Callable[[TensorDictBase], Tensor],
        *,
        onednn: bool = False,
        patience: int = _PATIENCE,
    ) -> None:
        self.module = module
        self.parameters = list(parameters)
        self.total = total
        self.onednn = onednn
        self.patience = 0 if onednn else patience
        self._state: PythonState | None = None
        self._programs: list[_Program] = []
        self._recordable = True
        self._said = False

    @property
    def gpu(self) -> torch.device | None:
        """The GPU of the parameters, on which recordings are captured as CUDA graphs; None on a CPU."""
        device = self.parameters[0].device if self.parameters else None
        return device if device is not None and device.type == "cuda" else None

    @property
    def recordings(self) -> int:
        """The number of recordings in use."""
        return sum(program.run is not None for program in self._programs)

    def __call__(self, batch: TensorDictBase) -> TensorDictBase:
        """Set ``grad`` of every parameter; returns the detached losses."""
        leaves = self._leaves(batch)
        program = None if leaves is None else self._program(batch, leaves)
        if program is None or program.run is None or leaves is None:
            return self.as_written(batch)
        if self.gpu is not None:  # gradients of the call before are in the memory that is written now
            for parameter in self.parameters:
                parameter.grad = None if parameter.grad is None else parameter.grad.clone()
        losses, gradients = program.run(*leaves.values())
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        return TensorDict(dict(zip(program.names, losses, strict=True)), [])

    def as_written(self, batch: TensorDictBase) -> TensorDictBase:
        """The same by calling the module and autograd."""
        losses = self.module(batch)
        total = self.total(losses)
        if isinstance(total, Tensor) and total.requires_grad:  # false if every weight in this phase is 0
            total.backward()
        return losses.detach()

    def _leaves(self, batch: TensorDictBase) -> dict[NestedKey, Tensor] | None:
        """The entries of a batch; None if such updates run as written."""
        if not self._recordable:
            return None
        try:
            return leaves_of(batch)
        except NotRecordableError as error:
            return self._refuse(error)

    def _program(self, batch: TensorDictBase, leaves: dict[NestedKey, Tensor]) -> _Program | None:
        """What is known of such an update: its recording, if it has one."""
        if self._state is None:
            unknown = unknown_module(self.module)
            if unknown is not None:
                self._recordable = False
                return self._refuse(NotRecordableError(f"{unknown} may depend on more than its attributes"))
            self._state = PythonState(self.module)
        inputs = tuple((key, value.shape, value.stride(), value.dtype) for key, value in leaves.items())
        python = self._state.now()
        program = self._known(inputs, python)
        if program is None:
            program = _Program(inputs, python, [], None)
            kept = _MOST if self.gpu is None else _MOST_ON_GPU
            self._programs = [*self._programs[1 - kept :], program]
        if program.run is None and not program.refused and program.seen >= self.patience:
            try:
                self._record(program, batch, leaves)
            except NotRecordableError as error:
                program.refused = True
                if not isinstance(error, NoGradientError):
                    self._refuse(error)
        program.seen += 1
        return program

    def _refuse(self, error: NotRecordableError) -> None:
        """Say once why updates run as written.

        Raises:
            NotRecordableError: with oneDNN, whose results must not depend on what can be recorded.
        """
        if self.onednn:
            raise NotRecordableError(
                f"compile=onednn cannot record this update: {error}. Choose compile=recorded, which runs such "
                "updates as written."
            ) from error
        if not self._said:
            torchrl_logger.info(f"some updates run as written, because they cannot be recorded: {error}")
        self._said = True

    def _known(self, inputs: tuple[Any, ...], python: tuple[Any, ...]) -> _Program | None:
        for program in reversed(self._programs):
            if program.inputs == inputs and PythonState.same(program.python, python):
                return program
        return None

    def _record(self, program: _Program, batch: TensorDictBase, leaves: dict[NestedKey, Tensor]) -> None:
        """Record an update, check the recording against it, and undo both."""
        assert self._state is not None
        tensors, gpu = module_tensors(self.module), self.gpu
        before, random = copied(tensors), random_states(gpu)

        def undo() -> None:
            restore(tensors, before)
            set_random_states(random, gpu)

        try:
            recording = record(self.module, self.total, batch, leaves, self.parameters)
            if not PythonState.same(program.python, self._state.now()):
                raise NotRecordableError("an update changes plain Python values of the loss")
            after, random_after = copied(tensors), random_states(gpu)
            undo()
            run = _exact(recording, self.parameters)
            if gpu is not None:
                require_on_gpu(recording)
                run = captured(run, list(leaves.values()), gpu)
                undo()
            losses, gradients = run(*leaves.values())
            _require_equal("a loss", recording.losses, losses)
            _require_equal("a gradient", recording.gradients, gradients)
            _require_equal("a buffer", after, tensors)
            _require_equal("the random numbers", random_after, random_states(gpu))
        finally:
            undo()
        program.names = recording.names
        program.run = _with_onednn(recording, self.parameters) if self.onednn else run


def _exact(recording: Recording, parameters: Sequence[Tensor]) -> Callable[..., Any]:
    simplify(recording.graph.graph)
    graph = copy_of(recording.graph.graph)
    reuse_memory(graph)
    return executable(recording.graph, graph, parameters)


def _with_onednn(recording: Recording, parameters: Sequence[Tensor]) -> Callable[..., Any]:
    graph = copy_of(recording.graph.graph)
    use_onednn(graph)
    reuse_memory(graph)
    return executable(recording.graph, graph, parameters)


def _require_equal(what: str, expected: Sequence[Tensor | None], found: Sequence[Tensor | None]) -> None:
    for first, second in zip(expected, found, strict=True):
        if first is None and second is None:
            continue
        if first is None or second is None or not equal(first, second):
            raise NotRecordableError(f"{what} of the recording differs from that of the update")
