"""Parameter groups that losses request from the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters that share a learning rate.

    Args:
        name (str): name of the group, unique within an agent.
        parameters (tuple of nn.Parameter): the parameters to optimize.
        schedule (str): learning-rate schedule to use, ``"representation"`` or ``"policy"``.
        scale (float): factor on the learning rate.

    Examples:
        >>> group = ParameterGroup.of("critics", [nn.Linear(1, 1)], schedule="policy", scale=0.3)
        >>> len(group.parameters), group.scale
        (2, 0.3)
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    schedule: str
    scale: float = 1.0

    @classmethod
    def of(
        cls, name: str, modules: Iterable[nn.Module], *, schedule: str, scale: float = 1.0
    ) -> ParameterGroup:
        """All trainable parameters of the modules."""
        parameters = (each for module in modules for each in module.parameters() if each.requires_grad)
        return cls(name, tuple(dict.fromkeys(parameters)), schedule, scale)
