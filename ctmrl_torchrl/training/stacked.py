"""Trains several seeds in one process with one stacked update; everything else matches single runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.objectives.stacked import StackedLoss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.stopping import Stopped, deferred, signal_name, stop_requested
from ctmrl_torchrl.training.schedule import total_loss
from ctmrl_torchrl.training.trainer import MetaTrainer
from ctmrl_torchrl.typed import stack_tensordicts


class StackedTrainer:
    """Meta-train independent agents together, vectorized over their parameters.

    Each agent uses the same batches and random numbers as a single run with the same seed, so both give the
    same result within floating-point tolerance. Each trainer keeps its schedule, log, meta-tests and
    checkpoints. A checkpoint can be resumed as a single run.

    Args:
        trainers (sequence of MetaTrainer): ready to train, differing only in their seeds.
        seeds (sequence of int): seeds of the trainers.

    Raises:
        ConfigError: if a part of the method cannot be stacked.
        ValueError: if a trainer has already started, or the trainers' updates or architectures differ.
    """

    def __init__(self, trainers: Sequence[MetaTrainer], seeds: Sequence[int]) -> None:
        self.trainers = list(trainers)
        if {trainer.update_count for trainer in self.trainers} != {0}:
            raise ValueError(
                "StackedTrainer: all trainers must be new; continue a started trainer by itself."
            )
        if not all(trainer.parts.stackable for trainer in self.trainers):
            names = [part.name for part in self.trainers[0].parts.parts if not part.stackable]
            raise ConfigError(
                f"config field seeds: the method's part {', '.join(names)} cannot be stacked over seeds; run "
                "each seed by itself."
            )
        if len({trainer.updates for trainer in self.trainers}) != 1:
            raise ValueError("StackedTrainer: all trainers must have the same number of updates.")
        self.loss = StackedLoss([trainer.loss for trainer in self.trainers], seeds)
        first = self.trainers[0].optimizer
        groups = [
            {**group, "params": [self.loss.leaf_of(parameter) for parameter in group["params"]]}
            for group in first.param_groups
        ]
        self.optimizer = cast(Any, type(first))(groups)
        self._shared = 0
        self.seeds = list(seeds)
        #: errors by row of the agent
        self.failures: dict[int, Exception] = {}

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """Make one gradient step of every agent on meta-batches ``[agents, T]``; returns ``[agents]`` losses."""
        losses = self.loss(batch)
        total = total_loss(losses, len(self.trainers))
        total = total.sum() if isinstance(total, Tensor) else total
        if isinstance(total, Tensor) and total.requires_grad:
            total.backward()
        # Schedules act on the optimizers of the agents.
        for group, own in zip(
            self.optimizer.param_groups, self.trainers[0].optimizer.param_groups, strict=True
        ):
            group["lr"] = own["lr"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for trainer in self.trainers:
            if not trainer.loss.policy_frozen:
                trainer.target_update.step()
        return losses.detach()

    def train(self) -> None:
        """Run the remaining updates of all agents.

        An agent that fails is recorded in ``failures`` and keeps its last checkpoint; the others continue.

        Raises:
            NotFiniteError: if every agent has failed.
            Stopped: after a signal, once every agent has written a checkpoint.
        """
        first = self.trainers[0]
        with deferred():
            for trainer in self.trainers:
                trainer.stops_within_evaluation = False
                trainer.begin()
            with first.progress_bar() as bar:
                for update in range(first.updates):
                    losses = self.update(self._next_batches(update))
                    self._share_optimizer_state()
                    for row, trainer in enumerate(self.trainers):
                        if row not in self.failures:
                            _lend_random_state(self.loss.generators[row])
                            with self._left_behind(row):
                                trainer.record(losses[row], bar)
                    bar.update()
                    self._stop_if_asked(update + 1)
            for row, trainer in enumerate(self.trainers):
                if row not in self.failures:
                    _lend_random_state(self.loss.generators[row])
                    with self._left_behind(row):
                        trainer.save()

    def _next_batches(self, update: int) -> TensorDictBase:
        """One batch per agent. A failed agent gets another agent's batch, so that shapes do not change."""
        batches: dict[int, TensorDictBase] = {}
        for row, trainer in enumerate(self.trainers):
            if row in self.failures:
                trainer.move_on(update)  # all agents share the phase
            else:
                with self._left_behind(row):
                    batches[row] = trainer.next_batch()
        some = next(iter(batches.values()))
        return stack_tensordicts([batches.get(row, some) for row in range(len(self.trainers))])

    @contextmanager
    def _left_behind(self, row: int) -> Iterator[None]:
        """Record the failure of an agent; re-raise it if no other agent is left."""
        try:
            yield
        except Exception as raised:
            error = self.failures[row] = self.trainers[row].explained(raised)
            torchrl_logger.error(f"seed {self.seeds[row]} failed, the others continue: {error}")
            if len(self.failures) == len(self.trainers):
                if error is raised:
                    raise
                raise error from raised

    def _stop_if_asked(self, update: int) -> None:
        number = stop_requested()
        if number is None:
            return
        folders = []
        for row, trainer in enumerate(self.trainers):
            if row not in self.failures:
                _lend_random_state(self.loss.generators[row])
                trainer.save()
                if trainer.checkpoint_path is not None:
                    folders.append(str(trainer.checkpoint_path.parent.parent))
        raise Stopped(
            number,
            f"stopped by {signal_name(number)} after update {update} of {self.trainers[0].updates}\n"
            f"Continue each seed by itself (seed=N instead of seeds=) with resume= {', '.join(folders)}",
        )

    def _share_optimizer_state(self) -> None:
        """Copy each agent's rows of the stacked optimizer state to its optimizer, for its checkpoint."""
        if len(self.optimizer.state) == self._shared:
            return
        for row, trainer in enumerate(self.trainers):
            for group, own in zip(self.optimizer.param_groups, trainer.optimizer.param_groups, strict=True):
                for leaf, parameter in zip(group["params"], own["params"], strict=True):
                    state = self.optimizer.state.get(leaf, {})
                    rows = {name: _row(value, leaf, row) for name, value in state.items()}
                    if rows:
                        trainer.optimizer.state[parameter] = rows
        self._shared = len(self.optimizer.state)


def _row(value: Tensor, leaf: Tensor, row: int) -> Tensor:
    """One agent's rows of an optimizer entry; all agents share step counts."""
    return value[row] if value.shape == leaf.shape else value


def _lend_random_state(generator: torch.Generator) -> None:
    """Make an agent's random state the global one, so that its checkpoint stores it."""
    if generator.device.type == "cuda":
        torch.cuda.set_rng_state(generator.get_state(), generator.device)
    else:
        torch.set_rng_state(generator.get_state())
