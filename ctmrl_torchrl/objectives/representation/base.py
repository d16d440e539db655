"""What every representation loss brings along: a configuration that knows how to build it."""

from __future__ import annotations

from dataclasses import dataclass

from torchrl.objectives import LossModule

from ctmrl_torchrl.problem import Problem


@dataclass
class RepresentationConfig:
    """Base of the representation configurations: one subclass beside each loss.

    Args:
        name (str): the loss's name, as chosen by ``representation=NAME``.

    Examples:
        >>> class Config(RepresentationConfig):
        ...     def build(self, problem: Problem, context_dim: int) -> LossModule:
        ...         return LossModule()
        >>> Config(name="mine").name
        'mine'
    """

    name: str = "none"

    def build(self, problem: Problem, context_dim: int) -> LossModule:
        """Build the loss with all of its modules."""
        raise ValueError(
            f"representation={self.name!r} names no representation loss; choose a method (method=ctmrl) or "
            "one of the registered representation configurations."
        )
