"""CTMRL as implemented in its released code, which differs from the paper.

- encoder: mean of transition contexts, which the loss compares with each other
- representation loss: :class:`~ctmrl_torchrl.objectives.ReleasedCTMRLLoss`, FOCAL's metric, CSRO's bound, a
  cycle through the matched code, commitment, and bilinear contrast
- part: :class:`~ctmrl_torchrl.methods.codebook_schedule.CodebookSchedule`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ctmrl_torchrl.methods.base import REPRESENTATIONS, Facts
from ctmrl_torchrl.methods.codebook import CodebookConfig
from ctmrl_torchrl.modules.behaviour_posterior import make_behaviour_posterior
from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.objectives.representation.released import ReleasedCTMRLLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, WIDTHS, require, ruled


@REPRESENTATIONS.register("released")
@dataclass
class ReleasedConfig(CodebookConfig):
    """Configuration of :class:`ReleasedCTMRLLoss`; a weight of 0 disables a term.

    Next observations are predicted only if contexts contain them, because otherwise nothing reads the prediction.

    Args:
        metric_weight, club_weight, posterior_weight, cycle_weight, commitment_weight, code_contrast_weight
            (float): weights of the terms; others, and the codebook settings, are in
            :class:`CodebookConfig`. Released for the bound: 25 (point robots, hopper, walker), 10 (half
            cheetah), 50 (ant).
        posterior_hidden (list of int): hidden layers of the posterior of contexts given the behavior.

    Examples:
        >>> import torch
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> ReleasedConfig(predictor_hidden=[8]).build(problem, 4).next_observation_predictor is None
        True
    """

    uses_transition_contexts: ClassVar[bool] = True

    name: str = "released"
    metric_weight: float = ruled(10.0, NOT_NEGATIVE)
    club_weight: float = ruled(25.0, NOT_NEGATIVE)
    posterior_weight: float = ruled(10.0, NOT_NEGATIVE)
    cycle_weight: float = ruled(1.0, NOT_NEGATIVE)
    commitment_weight: float = ruled(0.25, NOT_NEGATIVE)
    code_contrast_weight: float = ruled(1.0, NOT_NEGATIVE)
    posterior_hidden: list[int] = ruled([200, 200, 200], WIDTHS)

    def build(self, problem: Problem, context_dim: int) -> ReleasedCTMRLLoss:
        """Build the codebook, the networks and the loss."""
        sizes = self.network_sizes(problem, context_dim)
        hidden: dict[str, Any] = {"hidden": self.predictor_hidden}
        reward, change = problem.statistics[problem.reward_key], problem.statistics["observation_change"]
        next_observation_predictor = (
            make_next_observation_predictor(**sizes, **hidden, change_statistics=change)
            if problem.context_next_observation
            else None
        )
        loss = ReleasedCTMRLLoss(
            self.build_codebook(context_dim),
            make_reward_predictor(**sizes, **hidden, target_statistics=reward),
            next_observation_predictor,
            make_behaviour_posterior(**sizes, hidden=self.posterior_hidden),
            metric_weight=self.metric_weight,
            club_weight=self.club_weight,
            posterior_weight=self.posterior_weight,
            prediction_weight=self.prediction_weight,
            cycle_weight=self.cycle_weight,
            commitment_weight=self.commitment_weight,
            code_contrast_weight=self.code_contrast_weight,
            contrastive_weight=self.contrastive_weight,
            extra_negatives=self.extra_negatives,
            reward_scale=reward[1],
            next_observation_scale=change[1],
        )
        loss.set_keys(reward=problem.reward_key)
        return loss

    def check(self, facts: Facts) -> None:
        """Check that per-transition contexts have the size of task contexts."""
        super().check(facts)
        require(
            facts.encoder.compares_transitions,
            "encoder.pool",
            getattr(facts.encoder, "pool", facts.encoder.name),
            "'mean' with representation=released, which compares contexts of single transitions with those of "
            "tasks",
        )
