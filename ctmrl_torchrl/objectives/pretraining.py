"""Pretraining stages before meta-training, which can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ctmrl_torchrl.rules import NotFiniteError


class Pretraining:
    """Train a module for a number of steps. Resuming an interrupted stage gives the same result.

    Args:
        module (nn.Module): the module to train.
        loss (callable): maps the stage's generator to a scalar loss; it samples its batch with this generator.
        steps (int): total number of steps.

    Keyword Args:
        generator (torch.Generator): the only source of randomness.
        rate (float): learning rate of Adam.

    Attributes:
        step (int): steps made. last_loss (float): the mean loss of the last call of :meth:`run`.

    Raises:
        NotFiniteError: raised by :meth:`run` if the loss is not finite.

    Examples:
        >>> network = nn.Linear(1, 1)
        >>> def loss(generator):
        ...     inputs = torch.randn(32, 1, generator=generator)
        ...     return (network(inputs) - 3 * inputs).square().mean()
        >>> stage = Pretraining(network, loss, 500, generator=torch.Generator().manual_seed(0), rate=0.05)
        >>> stage.run(200)  # for the time being
        >>> stage.run()
        >>> stage.step, round(network.weight.item(), 2)
        (500, 3.0)
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[torch.Generator], Tensor],
        steps: int,
        *,
        generator: torch.Generator,
        rate: float = 3e-4,
    ) -> None:
        self.module, self.loss, self.steps, self.generator = module, loss, steps, generator
        self.optimizer = torch.optim.Adam(module.parameters(), rate)
        self.step = 0
        self.last_loss = float("nan")

    def run(self, steps: int | None = None) -> None:
        """Make ``steps`` steps, or all remaining steps, but never more than remain."""
        count = self.steps - self.step if steps is None else min(steps, self.steps - self.step)
        if count <= 0:
            return
        total = 0.0
        for _ in range(count):
            loss = self.loss(self.generator)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total = total + loss.detach()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += count
        self.last_loss = float(total) / count
        if not torch.isfinite(torch.as_tensor(self.last_loss)):
            raise NotFiniteError(
                f"Pretraining: the loss is not finite after {self.step} steps; lower its learning rate "
                "or standardize its data."
            )

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.steps

    def state_dict(self) -> dict[str, Any]:
        """The state needed to resume the stage."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "last_loss": self.last_loss,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load the output of :meth:`state_dict`."""
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.last_loss = int(state["step"]), float(state["last_loss"])
        self.generator.set_state(state["generator"].cpu())
