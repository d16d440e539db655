"""The training loop: sample, update, schedule, log, meta-test, checkpoint."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor
from torchrl._utils import logger as torchrl_logger
from tqdm import tqdm

from ctmrl_torchrl.data.buffer import MetaReplayBuffer
from ctmrl_torchrl.methods.parts import Parts
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.policy import TargetUpdate
from ctmrl_torchrl.progress import progress_bar
from ctmrl_torchrl.stopping import Stopped, at_once, deferred, signal_name, stop_requested
from ctmrl_torchrl.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from ctmrl_torchrl.training.checkpoint_fit import require_fit
from ctmrl_torchrl.training.finite import NotFiniteError, finite_parameters, require_finite
from ctmrl_torchrl.training.metrics import MetricsLog
from ctmrl_torchrl.training.schedule import PhaseSchedule, total_loss


class MetaTrainer:
    """Meta-train one agent from a replay buffer of meta-batches.

    Args:
        loss (MetaLoss): encoder, representation loss and policy loss.
        buffer (MetaReplayBuffer): its ``sample()`` is a meta-batch.
        optimizer (torch.optim.Optimizer): over the loss's parameters.
        target_update (TargetUpdate): e.g. ``SoftUpdate(loss.policy, tau=0.005)``.

    Keyword Args:
        updates (int): in all.
        schedule (PhaseSchedule, optional): sets rates and phase before every update.
        parts (Parts): what the method does around an update; their states are in checkpoints.
        evaluate (callable, optional): ``update -> {name: number}``, logged every ``evaluate_every``
            updates and after the last.
        metrics (MetricsLog, optional): where numbers go. checkpoint_path (Path, optional): where state goes.
        identity (dict): what a checkpoint must agree with to be resumed.
        log_every, evaluate_every, checkpoint_every (int): in updates; 0 switches off.
        device (torch.device): of the loss.
        compile (bool): run the loss and its backward pass through ``torch.compile``, as one graph.
        progress (bool): show a progress bar.

    Attributes:
        update_count (int): updates made. earlier_seconds (float): wall time of the sessions before this one.
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
        compile: bool = False,
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
        self._differentiate = torch.compile(self._gradients, fullgraph=True) if compile else self._gradients
        self.progress = progress
        self.update_count = 0
        self.earlier_seconds = 0.0
        self._start = time.perf_counter()
        self._recent: list[TensorDictBase] = []
        self._evaluation_is_due = False
        #: false where others train in step with this one: a signal then waits for the end of the update
        self.stops_within_evaluation = True

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """One gradient step on a meta-batch; returns the detached losses and diagnostics."""
        with torch._dynamo.config.patch(trace_autograd_ops=True) if self.compile else nullcontext():
            losses = self._differentiate(batch)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.loss.policy_frozen:
            self.target_update.step()
        return losses

    def _gradients(self, batch: TensorDictBase) -> TensorDictBase:
        """Losses of a batch, detached; their gradients are left in the parameters."""
        losses = self.loss(batch)
        total = total_loss(losses)
        if isinstance(total, Tensor) and total.requires_grad:  # not so when every weight of the phase is 0
            total.backward()
        return losses.detach()

    def train(self) -> None:
        """Run the remaining updates.

        Raises:
            NotFiniteError: naming the losses, parameters or returns that are not finite; the last checkpoint
                stays.
            Stopped: if a signal has asked for it (see :func:`~ctmrl_torchrl.stopping.stop_signals`), after
                the update and with a checkpoint.
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
        """Do what an interrupted run had still to do after its last update."""
        if self._evaluation_is_due:
            self._evaluate(bar)

    def stop_if_asked(self) -> None:
        """Write a checkpoint and end, if a signal has asked for that.

        Raises:
            Stopped: saying how to go on.
        """
        number = stop_requested()
        if number is None:
            return
        self.save()
        where = f"stopped by {signal_name(number)} after update {self.update_count} of {self.updates}"
        if self.checkpoint_path is None:
            raise Stopped(number, f"{where}\nThere is no checkpoint, for no place for it was given.")
        folder = self.checkpoint_path.parent.parent
        raise Stopped(number, f"{where}\nGo on with the same command and resume={folder}")

    def begin(self) -> None:
        """Start the clock, let the parts prepare, put the loss into training mode."""
        self._start = time.perf_counter()
        self.parts.prepare(self._save_in_preparation)
        self.loss.train()

    def _save_in_preparation(self) -> None:
        """The checkpoint that a part asks for; the moment to end, too, if a signal has asked for that."""
        self.stop_if_asked()
        self.save()

    def progress_bar(self) -> tqdm:
        """A bar over the remaining updates, if one is wanted."""
        return progress_bar(self.updates, "meta-train", initial=self.update_count, shown=self.progress)

    def next_batch(self) -> TensorDictBase:
        """What the coming update learns from, once the schedule has been moved on to it."""
        self.move_on(self.update_count)
        self.parts.before_update(self.update_count)
        self.buffer.sampler.num_contexts = 1 + self.loss.needs_positive
        self.buffer.only = [*self.loss.in_keys, *self.parts.in_keys]
        batch = self.buffer.sample()
        if self.device not in (None, batch.device):
            batch = batch.to(self.device, non_blocking=True)
        batch = self.parts.batch(batch)
        self.parts.inner_steps(batch, lambda: self._contexts(batch))
        return batch

    def move_on(self, update: int) -> None:
        """Set rates, phase and rhythm of the losses for the coming update."""
        if self.schedule is not None:
            self.schedule.before_update(update)
        if hasattr(self.loss.policy, "before_update"):  # a policy loss with a rhythm of its own
            self.loss.policy.before_update(update)

    def explained(self, error: Exception) -> Exception:
        """What has really gone wrong: numbers that are not finite, if there are any, else the error itself."""
        if isinstance(error, NotFiniteError):
            return error
        try:
            self._recent_means()
            require_finite(finite_parameters(self.loss), self.update_count)
        except NotFiniteError as culprit:
            return culprit
        return error

    @torch.no_grad()
    def _contexts(self, batch: TensorDictBase) -> TensorDictBase:
        """Contexts of a meta-batch without gradient, for the parts' inner steps."""
        encoding = self.loss.encoding(batch)
        contexts = encoding(encoding.draw("context")).entries()
        return TensorDict(contexts, batch_size=batch.batch_size[:1])

    def record(self, losses: TensorDictBase, bar: tqdm) -> None:
        """Count an update that has been made; log, meta-test and checkpoint where it is time."""
        self._recent.append(losses)
        self.parts.after_update(self.update_count)
        self.update_count += 1
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
        """Means of the updates since the last log; an error if one is not finite."""
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
        """A meta-test, which a signal ends at once: a run that goes on makes it again."""
        try:
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
        shown = {name.removeprefix("eval/").removesuffix("/return"): f"{value:.2f}"
                 for name, value in values.items() if name.endswith("/return")}  # fmt: skip
        bar.set_postfix(shown, refresh=False)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs to go on as if it had not stopped."""
        return {
            "update": self.update_count,
            "loss": self.loss.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "parts": self.parts.state_dict(),
            "sampling": self.buffer.state_dict(),
            "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            # Updates since the last row of the log: the next row averages over them too.
            "recent": [losses.to_dict() for losses in self._recent],
            "seconds": self.earlier_seconds + time.perf_counter() - self._start,
            "evaluation_is_due": self._evaluation_is_due,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`.

        Raises:
            MisfitError: naming the first entry that is not as this trainer needs it; nothing is loaded then.
        """
        groups = [list(group["params"]) for group in self.optimizer.param_groups]
        require_fit(state, self.state_dict(), groups)
        self.loss.load_state_dict(state["loss"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.parts.load_state_dict(state["parts"])
        self.buffer.load_state_dict(state["sampling"])
        torch.set_rng_state(state["torch_rng"])
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all(state["cuda_rng"])
        self.update_count = int(state["update"])
        self.earlier_seconds = float(state["seconds"])
        self._evaluation_is_due = state["evaluation_is_due"]
        recent = [TensorDict(losses, []) for losses in state["recent"]]
        self._recent = [losses if self.device is None else losses.to(self.device) for losses in recent]

    def save(self) -> None:
        """Write the checkpoint, if there is a place for it.

        Raises:
            NotFiniteError: if a recent loss or a parameter is not finite: a good checkpoint is not
                replaced.
        """
        if self.checkpoint_path is not None:
            self._recent_means()
            require_finite(finite_parameters(self.loss), self.update_count)
            if self.metrics is not None:
                self.metrics.require_place()
            save_checkpoint(self.checkpoint_path, self.state_dict(), self.identity)

    def resume(self, path: str | Path) -> Path:
        """Go on from a checkpoint or a run folder; returns the checkpoint's file.

        Raises:
            CheckpointError: if it cannot be read, or is not of this run.
        """
        file = find_checkpoint(path)
        state = load_checkpoint(file, self.identity)
        try:
            self.load_state_dict(state)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{file} does not fit this run; resume with the configuration it was written with "
                f"(config.yaml in its run folder). In detail: {error}"
            ) from error
        if self.update_count > self.updates:
            raise CheckpointError(
                f"{file} is at update {self.update_count}, but this run has schedule.updates={self.updates}; "
                f"set schedule.updates to at least {self.update_count} or resume from another checkpoint."
            )
        torchrl_logger.info(f"resumed from {file} at update {self.update_count}")
        return file
