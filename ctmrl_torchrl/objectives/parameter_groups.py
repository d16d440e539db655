"""Which parameters an optimizer moves together, as losses say it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class ParameterGroup:
    """Parameters with a common learning rate.

    Args:
        name (str): of the group, unique among those of an agent.
        parameters (tuple of nn.Parameter): that are moved.
        schedule (str): whose rate and decay they follow, ``"representation"`` or ``"policy"``.
        scale (float): factor on that rate.

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
        """All parameters of some modules that receive gradients."""
        parameters = (each for module in modules for each in module.parameters() if each.requires_grad)
        return cls(name, tuple(dict.fromkeys(parameters)), schedule, scale)
