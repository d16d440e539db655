"""Fits many small networks at once, each with a hold-out set, early stopping and its best weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ctmrl_torchrl.modules.stacked_mlp import StackedMLP
from ctmrl_torchrl.rules import NotFiniteError


class StackedFit:
    """Regression with a stack ``[tasks, members]`` of networks; every task has separate data.

    Every member learns from a bootstrap sample of its task's training rows, reshuffled in every epoch. A task
    stops after ``patience`` epochs in which no member improved its hold-out error by more than the fraction
    ``improvement``; the others continue. Each member keeps the weights of its last such improvement.

    Args:
        network (StackedMLP): networks of stack ``[tasks, members]``.
        inputs, targets (Tensor): ``[tasks, rows, in]`` and ``[tasks, rows, out]``.

    Keyword Args:
        generator (torch.Generator): samples hold-outs, rows and orders; on the CPU.
        counts (Tensor, optional): ``[tasks]``, number of valid rows per task; later rows are padding.
        rate (float), batch_size (int): learning rate of Adam and minibatch size.
        decay (sequence of float): weight decay of each layer's matrix; further layers use the last value.
        holdout_share (float), holdout_most (int): fraction of rows held out, and its maximum in rows.
        patience (int), improvement (float): see above.
        epochs_most (int): maximum number of epochs.

    Attributes:
        epoch (int): epochs made. stopped (Tensor): ``[tasks]`` boolean.
        best_error (Tensor): ``[tasks, members]``, hold-out mean squared error of the best weights.

    Raises:
        ValueError: if shapes do not fit the stack, a task has fewer than two rows, or nothing would be held out
            or left to learn from.

    Source: PETS (NeurIPS 2018) and MBPO for the rule; GENTLE (AAAI 2024) for the values.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(3, 200, 4, generator=generator)
        >>> network = StackedMLP([3, 2], 4, 1, [16], generator=generator)
        >>> options = dict(generator=generator, rate=1e-2, batch_size=16, epochs_most=20)
        >>> fit = StackedFit(network, inputs, inputs[..., :1], **options)
        >>> while fit.run_epoch():
        ...     pass
        >>> fit.finish()  # the network now has the best weights
        >>> bool((fit.best_error < 0.3).all())
        True
    """

    def __init__(
        self,
        network: StackedMLP,
        inputs: Tensor,
        targets: Tensor,
        *,
        generator: torch.Generator,
        counts: Tensor | None = None,
        rate: float = 1e-3,
        batch_size: int = 256,
        decay: Sequence[float] = (2.5e-5, 5e-5, 7.5e-5),
        holdout_share: float = 0.2,
        holdout_most: int = 1000,
        patience: int = 5,
        improvement: float = 0.01,
        epochs_most: int = 1000,
    ) -> None:
        if len(network.stack) != 2 or inputs.shape[:-1] != targets.shape[:-1] or inputs.ndim != 3:
            raise ValueError(
                "StackedFit: expected a stack [tasks, members], inputs [tasks, rows, in] and targets [tasks, "
                f"rows, out]; got {list(network.stack)}, {list(inputs.shape)} and {list(targets.shape)}."
            )
        if inputs.shape[0] != network.stack[0]:
            raise ValueError(
                f"StackedFit: {inputs.shape[0]} tasks of data, but {network.stack[0]} in the stack."
            )
        self.network, self.inputs, self.targets = network, inputs, targets
        rows = torch.full((inputs.shape[0],), inputs.shape[1])
        self.counts = rows if counts is None else counts.cpu()
        if (self.counts < 2).any():
            raise ValueError(
                "StackedFit: every task needs at least two rows, one to learn from and one held out."
            )
        if not 0 < holdout_share < 1 or holdout_most < 1:
            raise ValueError(
                f"StackedFit: holdout_share={holdout_share} and holdout_most={holdout_most}; allowed are a share "
                "between 0 and 1, and at least one row."
            )
        self.generator = generator
        self.batch_size, self.decay = batch_size, tuple(decay)
        self.holdout_share, self.holdout_most = holdout_share, holdout_most
        self.patience, self.improvement, self.epochs_most = patience, improvement, epochs_most
        self.optimizer = torch.optim.Adam(network.parameters(), rate)
        self.epoch = 0
        device = inputs.device
        self.stale = torch.zeros(network.stack[0], dtype=torch.int64, device=device)
        self.best_error = inputs.new_full(network.stack, torch.inf)
        self.best = {name: value.detach().clone() for name, value in network.named_parameters()}
        self._draw_rows()

    def _draw_rows(self) -> None:
        """Hold-out rows ``[tasks, held]`` and every member's training rows ``[tasks, members, drawn]``."""
        self._start = self.generator.get_state()
        tasks, rows, device = *self.inputs.shape[:2], self.inputs.device
        scores = torch.rand(tasks, rows, generator=self.generator)
        scores.masked_fill_(torch.arange(rows) >= self.counts.unsqueeze(-1), 2.0)
        order = scores.argsort(-1)  # a task's own rows, shuffled, before any padding
        held = (self.counts * self.holdout_share).long().clamp(1, self.holdout_most)
        places = torch.arange(int(held.max()))
        self.held_rows = order[:, : len(places)].to(device)
        self.held_mask = (places < held.unsqueeze(-1)).to(device)
        left = self.counts - held
        share = torch.rand(*self.network.stack, int(left.max()), generator=self.generator)
        place = held.view(-1, 1, 1) + (share * left.view(-1, 1, 1)).long()
        self.rows = order.unsqueeze(1).expand(-1, place.shape[1], -1).gather(-1, place).to(device)
        self._task = torch.arange(tasks, device=device).view(-1, 1, 1)

    @property
    def stopped(self) -> Tensor:
        """The tasks that have stopped, ``[tasks]``."""
        return self.stale >= self.patience

    def loss(self, rows: Tensor) -> Tensor:
        """Mean squared error of rows ``[tasks, members, batch]`` plus weight decay, ``[tasks, members]``."""
        prediction = self.network(self.inputs[self._task, rows])
        error = (prediction - self.targets[self._task, rows]).square().mean((-2, -1))
        return error + self.network.decay(self.decay)

    @torch.no_grad()
    def holdout_error(self) -> Tensor:
        """Mean squared error of the current weights on the hold-out set, ``[tasks, members]``."""
        total = torch.zeros_like(self.best_error)
        for rows, mask in zip(self.held_rows.split(256, -1), self.held_mask.split(256, -1), strict=True):
            rows = rows.unsqueeze(1)
            error = (self.network(self.inputs[self._task, rows]) - self.targets[self._task, rows]).square()
            total += torch.where(mask.unsqueeze(1), error.mean(-1), torch.zeros_like(error[..., 0])).sum(-1)
        return total / self.held_mask.sum(-1, keepdim=True)

    def run_epoch(self) -> bool:
        """Run one epoch of all networks and return whether another should follow."""
        if self.epoch >= self.epochs_most or bool(self.stopped.all()):
            return False
        order = torch.randperm(self.rows.shape[-1], generator=self.generator).to(self.rows.device)
        for places in order.split(self.batch_size):
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.rows[..., places]).sum().backward()
            self.optimizer.step()
        self._keep_what_is_better(self.holdout_error())
        self.epoch += 1
        return self.epoch < self.epochs_most and not bool(self.stopped.all())

    @torch.no_grad()
    def _keep_what_is_better(self, error: Tensor) -> None:
        better = (error < (1.0 - self.improvement) * self.best_error) & ~self.stopped.unsqueeze(-1)
        self.best_error = torch.where(better, error, self.best_error)
        for name, value in self.network.named_parameters():
            self.best[name] = torch.where(better[..., None, None], value, self.best[name])
        self.stale = torch.where(better.any(-1), torch.zeros_like(self.stale), self.stale + 1)

    @torch.no_grad()
    def finish(self) -> None:
        """Load the best weights into the network.

        Raises:
            NotFiniteError: if a network never had a finite error on its hold-out set.
        """
        if not self.best_error.isfinite().all():
            failed = int((~self.best_error.isfinite()).sum())
            raise NotFiniteError(
                f"StackedFit: {failed} of {self.best_error.numel()} networks have no finite error on their "
                "hold-out rows; lower the learning rate of the fit, or look for such values in the data."
            )
        for name, value in self.network.named_parameters():
            value.copy_(self.best[name])

    def state_dict(self) -> dict[str, Any]:
        """The state from which a fit on the same data can be resumed exactly."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": dict(self.best),
            "best_error": self.best_error,
            "stale": self.stale,
            "epoch": self.epoch,
            "start": self._start,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        device = self.inputs.device  # a checkpoint is read to the CPU
        self.best = {name: value.to(device, copy=True) for name, value in state["best"].items()}
        self.best_error, self.stale = (state[name].to(device, copy=True) for name in ("best_error", "stale"))
        self.epoch = int(state["epoch"])
        self.generator.set_state(state["start"])
        self._draw_rows()
        self.generator.set_state(state["generator"])


def fit_stacked(
    network: StackedMLP,
    inputs: Tensor,
    targets: Tensor,
    *,
    generator: torch.Generator,
    state: dict[str, Any] | None = None,
    after_epoch: Callable[[StackedFit], None] | None = None,
    **options: Any,
) -> StackedFit:
    """Fit a stack of networks to completion and load the best weights.

    Args:
        network, inputs, targets, generator, options: as for :class:`StackedFit`.
        state (dict, optional): state of an interrupted fit to resume.
        after_epoch (callable, optional): called with the fit after every epoch, e.g. to save its state.

    Returns:
        the fit, with ``best_error`` and ``epoch``.

    Examples:
        >>> generator = torch.Generator().manual_seed(0)
        >>> inputs = torch.randn(2, 50, 3, generator=generator)
        >>> network = StackedMLP([2, 4], 3, 1, [8], generator=generator)
        >>> fit_stacked(network, inputs, inputs[..., :1], generator=generator, epochs_most=3).epoch
        3
    """
    fit = StackedFit(network, inputs, targets, generator=generator, **options)
    if state is not None:
        fit.load_state_dict(state)
    going = True
    while going:
        before = fit.epoch
        going = fit.run_epoch()
        if fit.epoch > before and after_epoch is not None:
            after_epoch(fit)
    fit.finish()
    return fit
