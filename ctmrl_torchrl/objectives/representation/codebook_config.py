"""What the configurations of losses with a codebook share: from numbers to codes and predictors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.standardise import finer
from ctmrl_torchrl.objectives.representation.base import RepresentationConfig
from ctmrl_torchrl.problem import Problem


@dataclass
class CodebookConfig(RepresentationConfig):
    """Base of the configurations of losses with a codebook.

    Args:
        codes (int or None): N; None takes the environment's default.
        prediction_weight, contrastive_weight (float): of those terms.
        extra_negatives (int): M, for tasks alone on their code. update_rate (float): eta of Eq. (2).
        predictor_hidden (list of int): widths of the reward and next-observation predictors.
        observation_gain (float or None): as for the policy's networks, for the predictors.
    """

    codes: int | None = None
    prediction_weight: float = 1.0
    contrastive_weight: float = 1.0
    extra_negatives: int = 4
    update_rate: float = 0.1
    predictor_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    observation_gain: float | None = None

    def build_codebook(self, problem: Problem, context_dim: int) -> Codebook:
        """The codes."""
        return Codebook(self.codes or problem.codes, context_dim, update_rate=self.update_rate)

    def network_sizes(self, problem: Problem, context_dim: int) -> dict[str, Any]:
        """What every network on observation and action is built with, but its widths."""
        return {
            "observation_dim": problem.observation_dim,
            "action_dim": problem.action_dim,
            "context_dim": context_dim,
            "observation_statistics": finer(problem.statistics["observation"], self.observation_gain),
        }
