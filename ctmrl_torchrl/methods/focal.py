"""FOCAL (Li, Yang, Luo; ICLR 2021): contexts of one task attract, those of different tasks repel each other.

- encoder: mean of transition contexts
- representation loss: :class:`~ctmrl_torchrl.objectives.MetricLoss`, the distance metric loss alone
- tasks are sampled with replacement (``batch.repeat_tasks=true``), which is necessary for pairs of one task
- policy loss as published: ``brac_sac`` with the behavior penalty
"""

from __future__ import annotations

from dataclasses import dataclass

from ctmrl_torchrl.methods.base import REPRESENTATIONS, RepresentationConfig
from ctmrl_torchrl.objectives.representation.metric import MetricLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import POSITIVE, ruled


@REPRESENTATIONS.register("focal")
@dataclass
class FOCALConfig(RepresentationConfig):
    """Configuration of the distance metric loss.

    Args:
        metric_weight (float): weight of the only term.

    Examples:
        >>> FOCALConfig().build(None, 4).out_keys
        ['loss_metric', 'context_distance']
    """

    name: str = "focal"
    metric_weight: float = ruled(1.0, POSITIVE)

    def build(self, problem: Problem, context_dim: int) -> MetricLoss:
        """Build the loss, which has no modules."""
        return MetricLoss(metric_weight=self.metric_weight)
