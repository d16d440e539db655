"""Several seeds in one process: one update for all of them, everything else as in their single runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.objectives.stacked import StackedLoss
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.stopping import Stopped, deferred, signal_name, stop_requested
from ctmrl_torchrl.training.schedule import total_loss
from ctmrl_torchrl.training.trainer import MetaTrainer


class StackedTrainer:
    """Meta-train independent agents together, vectorised over their parameters.

    Each agent ends where its single run with the same seed ends, within floating-point tolerance: it draws
    the same batches and random numbers. Its trainer keeps its schedule, log, meta-tests and checkpoints,
    which are those of single runs and can be resumed as such.

    Args:
        trainers (sequence of MetaTrainer): ready to train, differing in their seeds alone.
        seeds (sequence of int): of the trainers.

    Raises:
        ConfigError: if a part of the method cannot be stacked.
        ValueError: if a trainer has begun, they have different numbers of updates, or agents are not alike.
    """

    def __init__(self, trainers: Sequence[MetaTrainer], seeds: Sequence[int]) -> None:
        self.trainers = list(trainers)
        if {trainer.update_count for trainer in self.trainers} != {0}:
            raise ValueError(
                "StackedTrainer: give it trainers that have not begun; one that has goes on by itself."
            )
        if not all(trainer.parts.stackable for trainer in self.trainers):
            names = [part.name for part in self.trainers[0].parts.parts if not part.stackable]
            raise ConfigError(
                f"config field seeds: the method's part {', '.join(names)} cannot be stacked over seeds; run "
                "each seed by itself."
            )
        if len({trainer.updates for trainer in self.trainers}) != 1:
            raise ValueError("StackedTrainer: give it trainers of equally many updates.")
        self.loss = StackedLoss([trainer.loss for trainer in self.trainers], seeds)
        first = self.trainers[0].optimizer
        groups = [
            {**group, "params": [self.loss.leaf_of(parameter) for parameter in group["params"]]}
            for group in first.param_groups
        ]
        self.optimizer = type(first)(groups)
        self._shared = 0
        self.seeds = list(seeds)
        #: what has gone wrong, by the row of the agent
        self.failures: dict[int, Exception] = {}

    def update(self, batch: TensorDictBase) -> TensorDictBase:
        """One gradient step of every agent on meta-batches ``[agents, T]``; returns ``[agents]`` losses."""
        losses = self.loss(batch)
        total = total_loss(losses)
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

        An agent that breaks down is left behind in ``failures`` with the checkpoint it had; the others go on.

        Raises:
            NotFiniteError: if every agent has broken down.
            Stopped: if a signal has asked for it, with a checkpoint of every agent.
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
        """One batch for every agent; an agent that has broken down sees another one's, to keep the shapes."""
        batches: dict[int, TensorDictBase] = {}
        for row, trainer in enumerate(self.trainers):
            if row in self.failures:
                trainer.move_on(update)  # the phase is common to all
            else:
                with self._left_behind(row):
                    batches[row] = trainer.next_batch()
        some = next(iter(batches.values()))
        return torch.stack([batches.get(row, some) for row in range(len(self.trainers))])

    @contextmanager
    def _left_behind(self, row: int) -> Iterator[None]:
        """An agent that breaks down here is left behind, unless it is the last one."""
        try:
            yield
        except Exception as raised:
            error = self.failures[row] = self.trainers[row].explained(raised)
            torchrl_logger.error(f"seed {self.seeds[row]} has broken down, the others go on: {error}")
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
            f"Go on with each seed by itself (seed=N instead of seeds=) and resume= {', '.join(folders)}",
        )

    def _share_optimizer_state(self) -> None:
        """Let the agents' optimizers hold their rows of the common state, for their checkpoints."""
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
    """The agent's part of an optimizer's entry; step counts are common to all."""
    return value[row] if value.shape == leaf.shape else value


def _lend_random_state(generator: torch.Generator) -> None:
    """Make an agent's random state the global one, as its checkpoint should hold it."""
    if generator.device.type == "cuda":
        torch.cuda.set_rng_state(generator.get_state(), generator.device)
    else:
        torch.set_rng_state(generator.get_state())
