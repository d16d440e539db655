"""The training loop: sampling, updates, schedule, logging, meta-tests and checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl._utils import logger as torchrl_logger
from tqdm import tqdm

from ctmrl_torchrl.data.buffer import MetaReplayBuffer
from ctmrl_torchrl.methods.parts import Parts
from ctmrl_torchrl.modules.keys import MissingEntryError
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.policy import TargetUpdate
from ctmrl_torchrl.progress import progress_bar
from ctmrl_torchrl.recorded import RecordedGradients
from ctmrl_torchrl.rules import NotFiniteError
from ctmrl_torchrl.stopping import Stopped, at_once, deferred, signal_name, stop_requested
from ctmrl_torchrl.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    require_restorable,
    save_checkpoint,
)
from ctmrl_torchrl.training.checkpoint_fit import require_fit, with_targets
from ctmrl_torchrl.training.finite import finite_parameters, require_finite
from ctmrl_torchrl.training.metrics import MetricsLog
from ctmrl_torchrl.training.missing import with_fields
from ctmrl_torchrl.training.schedule import PhaseSchedule, total_loss
from ctmrl_torchrl.training.target_state import load_target_state, target_state


class MetaTrainer:
    """Meta-train one agent from a replay buffer of meta-batches.

    Args:
        loss (MetaLoss): encoder, representation loss and policy loss.
        buffer (MetaReplayBuffer): replay buffer whose ``sample()`` returns a meta-batch.
        optimizer (torch.optim.Optimizer): optimizer of the loss's parameters.
        target_update (TargetUpdate): e.g. ``SoftUpdate(loss.policy, tau=0.005)``.

    Keyword Args:
        updates (int): total number of updates.
        schedule (PhaseSchedule, optional): sets learning rates and phase before every update.
        parts (Parts): the method's steps around an update; checkpoints include their states.
        evaluate (callable, optional): ``update -> {name: number}``, logged every ``evaluate_every``
            updates and after the last one.
        metrics (MetricsLog, optional): log of scalars. checkpoint_path (Path, optional): checkpoint file.
        identity (dict): values that a checkpoint must share to be resumed.
        log_every, evaluate_every, checkpoint_every (int): intervals in updates; 0 disables.
        device (torch.device): device of the loss.
        compile (bool or str): true compiles the loss and its backward pass as one graph with
            ``torch.compile``; ``"recorded"`` and ``"onednn"`` repeat recorded operations, see
            :class:`~ctmrl_torchrl.recorded.RecordedGradients`.
        progress (bool): show a progress bar.

    Attributes:
        update_count (int): updates made. earlier_seconds (float): wall time of earlier sessions.
        differentiate (callable): sets the gradients of a batch and returns its losses.
    """

    def __init__(
        self,
        loss: MetaLoss,
        buffer: MetaReplayBuffer,
        optimizer: torch.optim.Optimizer,
        target_update: TargetUpdate,
        *,
        updates: int,
        schedule: PhaseSchedule | None = None,
        parts: Parts | None = None,
        evaluate: Callable[[int], dict[str, float]] | None = None,
        metrics: MetricsLog | None = None,
        checkpoint_path: Path | None = None,
        identity: dict[str, Any] | None = None,
        log_every: int = 50,
        evaluate_every: int = 0,
        checkpoint_every: int = 0,
        device: torch.device | None = None,
        compile: bool | str = False,
        progress: bool = False,
    ) -> None:
        self.loss = loss
        self.buffer = buffer
        self.optimizer = optimizer
        self.target_update = target_update
        self.updates = updates
        self.schedule = schedule
        self.parts = Parts([]) if parts is None else parts
        self.evaluate = evaluate
        self.metrics = metrics
        self.checkpoint_path = checkpoint_path
        self.identity = identity or {}
        self.log_every = log_every
        self.evaluate_every = evaluate_every
        self.checkpoint_every = checkpoint_every
        self.device = device
        self.compile = compile
        self.differentiate = self._way_to_differentiate()
        self.progress = progress
        self.update_count = 0
        self.earlier_seconds = 0.0
        self._start = time.perf_counter()
        self._recent: list[TensorDictBase] = []
        self._evaluation_is_due = False
        #: false if other trainers run in lockstep: a signal is then handled after the joint update
        self.stops_within_evaluation = True

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Make one gradient step on a meta-batch and return the detached losses and diagnostics."""
        with torch._dynamo.config.patch(trace_autograd_ops=True) if self.compile is True else nullcontext():
            losses = self.differentiate(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.loss.policy_frozen:
            self.target_update.step()
        return losses

    @property
    def _gpu(self) -> torch.device | None:
        """The device if it is a GPU."""
        return self.device if self.device is not None and self.device.type == "cuda" else None

    def _way_to_differentiate(self) -> Callable[[TensorDictBase], TensorDictBase]:
        """The function that sets the gradients of a batch and returns its losses."""
        if self.compile is True:
            return torch.compile(self._gradients, fullgraph=True)
        if not self.compile or (self.device is not None and self.device.type not in ("cpu", "cuda")):
            return self._gradients
        learned = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        return RecordedGradients(self.loss, learned, total_loss, onednn=self.compile == "onednn")

    def _gradients(self, batch: TensorDictBase) -> TensorDictBase:
        """Compute the losses of a batch and their gradients; returns the detached losses."""
        losses = self.loss(batch)
        total = total_loss(losses)
        if isinstance(total, Tensor) and total.requires_grad:  # false if every weight in this phase is 0
            total.backward()
        return losses.detach()

    def train(self) -> None:
        """Run the remaining updates.

        Raises:
            NotFiniteError: with the losses, parameters or returns that are not finite. The last checkpoint is
                kept.
            Stopped: after a signal (see :func:`~ctmrl_torchrl.stopping.stop_signals`), once the current
                update is complete and a checkpoint is written.
        """
        with deferred():
            self.begin()
            with self.progress_bar() as bar:
                self.catch_up(bar)
                while self.update_count < self.updates:
                    try:
                        self.record(self.update(self.next_batch()), bar)
                    except Exception as error:
                        culprit = self.explained(error)
                        if culprit is error:
                            raise
                        raise culprit from error
                    bar.update()
                    self.stop_if_asked()
            self.save()

    def catch_up(self, bar: tqdm) -> None:
        """Complete the steps that an interrupted run had left after its last update."""
        if self._evaluation_is_due:
            self._evaluate(bar)

    def stop_if_asked(self) -> None:
        """Write a checkpoint and stop if a signal was received.

        Raises:
            Stopped: with instructions for resuming.
        """
        number = stop_requested()
        if number is None:
            return
        self.save()
        where = f"stopped by {signal_name(number)} after update {self.update_count} of {self.updates}"
        if self.checkpoint_path is None:
            raise Stopped(number, f"{where}\nNo checkpoint was written because checkpoint_path is not set.")
        folder = self.checkpoint_path.parent.parent
        raise Stopped(number, f"{where}\nContinue with the same command, or with resume={folder}")

    def begin(self) -> None:
        """Start the clock, prepare the parts and set the loss to training mode."""
        self._start = time.perf_counter()
        require_restorable(self.parts.state_dict())
        self.parts.prepare(self._save_in_preparation)
        self.loss.train()

    def _save_in_preparation(self) -> None:
        """Write a checkpoint for a part, and stop here if a signal was received."""
        self.stop_if_asked()
        self.save()

    def progress_bar(self) -> tqdm:
        """A bar over the remaining updates, if enabled."""
        return progress_bar(self.updates, "meta-train", initial=self.update_count, shown=self.progress)

    def next_batch(self) -> TensorDictBase:
        """Advance the schedule and sample the batch of the next update."""
        self.move_on(self.update_count)
        self.parts.before_update(self.update_count)
        sampler = cast(Any, self.buffer.sampler)
        sampler.num_contexts = 1 + self.loss.needs_positive
        sampler.best_only = self.loss.policy_alone_reads_transitions
        self.buffer.only = [*self.loss.in_keys, *self.parts.in_keys]
        batch = self.buffer.sample()
        if self.device not in (None, batch.device):
            batch = batch.to(self.device, non_blocking=True)
        batch = self.parts.batch(batch)
        self.parts.inner_steps(batch, lambda: self._contexts(batch))
        return batch

    def move_on(self, update: int) -> None:
        """Set the learning rates, the phase and the policy loss's update interval for the next update."""
        if self.schedule is not None:
            self.schedule.before_update(update)
        if hasattr(self.loss.policy, "before_update"):  # a policy loss with delayed updates
            cast(Any, self.loss.policy).before_update(update)

    def explained(self, error: Exception) -> Exception:
        """The root cause: a NotFiniteError if any number is not finite, otherwise the error itself.

        If an entry is missing, the error lists the fields of the dataset.
        """
        if isinstance(error, NotFiniteError):
            return error
        try:
            self._recent_means()
            require_finite(finite_parameters(self.loss), self.update_count)
        except NotFiniteError as culprit:
            return culprit
        if isinstance(error, MissingEntryError):
            return with_fields(error, self.buffer.fields)
        return error

    @torch.no_grad()
    def _contexts(self, batch: TensorDictBase) -> TensorDictBase:
        """Encode the contexts of a meta-batch without gradients, for the parts' inner steps."""
        encoding = self.loss.encoding(batch)
        contexts = encoding(encoding.draw("context")).entries()
        return TensorDict(contexts, batch_size=batch.batch_size[:1])

    def record(self, losses: TensorDictBase, bar: tqdm) -> None:
        """Count a completed update; log, meta-test and checkpoint at their intervals."""
        self._recent.append(losses)
        self.parts.after_update(self.update_count)
        self.update_count += 1
        if self.update_count == 1:  # not only after hours, with the first checkpoint
            require_restorable(self.parts.state_dict())
        if self._due(self.log_every) or self.update_count == self.updates:
            self._log_losses()
        last = self.evaluate_every > 0 and self.update_count == self.updates
        if (last or self._due(self.evaluate_every)) and self.evaluate is not None:
            self._evaluation_is_due = True
            self._evaluate(bar)
        if self._due(self.checkpoint_every):
            self.save()

    def _due(self, interval: int) -> bool:
        return interval > 0 and self.update_count % interval == 0

    def _recent_means(self) -> dict[str, float]:
        """Mean losses since the last log row; raises an error if one is not finite."""
        names = dict.fromkeys(name for losses in self._recent for name in losses.keys())  # noqa: SIM118
        values = {}
        for name in names:
            recent = [losses.get(name, None) for losses in self._recent]
            value = torch.stack([value.float() for value in recent if value is not None])
            values[f"{self._metric_group(name)}/{name}"] = value.mean().item()
        require_finite({name: math.isfinite(value) for name, value in values.items()}, self.update_count)
        return values

    def _metric_group(self, name: str) -> str:
        return "loss" if name.startswith("loss_") else self.parts.metric_groups.get(name, "diagnostics")

    def _log_losses(self) -> None:
        values = self._recent_means()
        require_finite(finite_parameters(self.loss), self.update_count)
        self._recent = []
        if self.metrics is not None:
            self.metrics.log(self.update_count, values)

    def _evaluate(self, bar: tqdm) -> None:
        """Run a meta-test. A signal aborts it immediately; a resumed run repeats it."""
        try:
            assert self.evaluate is not None
            with at_once() if self.stops_within_evaluation else nullcontext():
                values = self.evaluate(self.update_count)
        except Stopped:
            self.stop_if_asked()
            raise
        returns = {name: math.isfinite(value) for name, value in values.items() if name.endswith("/return")}
        require_finite(returns, self.update_count)
        self._evaluation_is_due = False
        if self.metrics is not None:
            self.metrics.log(self.update_count, values)
        shown = {name.removeprefix("eval/").removesuffix("/return"): f"{value:z.2f}"
                 for name, value in values.items() if name.endswith("/return")}  # fmt: skip
        bar.set_postfix(shown, refresh=False)

    def state_dict(self) -> dict[str, Any]:
        """The complete state, so that a resumed run continues as if it had not stopped."""
        targets = target_state(self.target_update)
        return ({"targets": targets} if targets else {}) | {
            "update": self.update_count,
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "parts": self.parts.state_dict(),
            "sampling": self.buffer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": [] if self._gpu is None else [torch.cuda.get_rng_state(self._gpu)],
            # Losses since the last log row; the next row averages over them too.
            "recent": [losses.to_dict() for losses in self._recent],
            "seconds": self.earlier_seconds + time.perf_counter() - self._start,
            "evaluation_is_due": self._evaluation_is_due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`.

        Raises:
            MisfitError: with the first entry that does not fit this trainer. Nothing is loaded in that case.
        """
        groups = [list(group["params"]) for group in self.optimizer.param_groups]
        own = self.state_dict()
        state = with_targets(state, own, self.updates)
        require_fit(state, own, groups)
        self.loss.load_state_dict(state["loss"])
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for own, group in zip(rates, self.optimizer.param_groups, strict=True):
            if isinstance(own, Tensor):  # PyTorch leaves a loaded rate on the CPU
                group["lr"] = own.copy_(group["lr"])
        load_target_state(self.target_update, state.get("targets", {}))
        self.parts.load_state_dict(state["parts"])
        self.buffer.load_state_dict(state["sampling"])
        torch.set_rng_state(state["torch_rng"])
        if self._gpu is not None and state["cuda_rng"]:
            torch.cuda.set_rng_state(state["cuda_rng"][0], self._gpu)
        self.update_count = int(state["update"])
        self.earlier_seconds = float(state["seconds"])
        self._evaluation_is_due = state["evaluation_is_due"]
        recent = [TensorDict(losses, []) for losses in state["recent"]]
        self._recent = [losses if self.device is None else losses.to(self.device) for losses in recent]

    def save(self) -> None:
        """Write a checkpoint if ``checkpoint_path`` is set.

        Raises:
            NotFiniteError: if a recent loss or a parameter is not finite, so that a good checkpoint is kept.
            CheckpointError: if the state of a part could not be restored.
        """
        if self.checkpoint_path is not None:
            self._recent_means()
            require_finite(finite_parameters(self.loss), self.update_count)
            require_restorable(self.parts.state_dict())
            if self.metrics is not None:
                self.metrics.require_place()
            save_checkpoint(self.checkpoint_path, self.state_dict(), self.identity)

    def resume(self, path: str | Path) -> Path:
        """Resume from a checkpoint or a run folder and return the checkpoint's file.

        Raises:
            CheckpointError: if it cannot be read, or belongs to another run.
        """
        file = find_checkpoint(path)
        state = load_checkpoint(file, self.identity)
        try:
            self.load_state_dict(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file} does not fit this run; resume with the configuration it was written with "
                f"(config.yaml in its run folder). Details: {error}"
            ) from error
        if self.update_count > self.updates:
            raise CheckpointError(
                f"{file} is at update {self.update_count}, but this run has schedule.updates={self.updates}; "
                f"set schedule.updates to at least {self.update_count} or resume from another checkpoint."
            )
        torchrl_logger.info(f"resumed from {file} at update {self.update_count}")
        return file
