"""Several seeds in one process: one update for all of them, everything else as in their single runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.objectives.stacked import StackedLoss
from ctmrl_torchrl.rules import ConfigError
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

        Raises:
            FloatingPointError: as :meth:`MetaTrainer.train`, for the first agent that is not finite.
        """
        first = self.trainers[0]
        for trainer in self.trainers:
            trainer.begin()
        with first.progress_bar() as bar:
            while first.update_count < first.updates:
                losses = self.update(torch.stack([trainer.next_batch() for trainer in self.trainers]))
                self._share_optimizer_state()
                for row, trainer in enumerate(self.trainers):
                    _lend_random_state(self.loss.generators[row])
                    trainer.record(losses[row], bar)
                bar.update()
        for trainer, generator in zip(self.trainers, self.loss.generators, strict=True):
            _lend_random_state(generator)
            trainer.save()

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
