"""The configuration of the released code's objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ctmrl_torchrl.modules.behaviour_guess import make_behaviour_guess
from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.objectives.representation.codebook_config import CodebookConfig
from ctmrl_torchrl.objectives.representation.released import ReleasedCTMRLLoss
from ctmrl_torchrl.problem import Problem


@dataclass
class ReleasedConfig(CodebookConfig):
    """Configuration of :class:`ReleasedCTMRLLoss`; a weight of 0 switches a term off.

    Next observations are predicted only where contexts hold them: elsewhere nothing reads the prediction.

    Args:
        metric_weight, club_weight, guess_weight, cycle_weight, commitment_weight, code_contrast_weight
            (float): of the terms; others, and what else losses with a codebook have, are in
            :class:`CodebookConfig`. Released for the bound: 25 (point robots, hopper, walker), 10 (half
            cheetah), 50 (ant).
        guess_hidden (list of int): widths of the guess of contexts from behaviour.

    Examples:
        >>> import torch
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, 8, ("next", "reward"), False, statistics)
        >>> ReleasedConfig(predictor_hidden=[8]).build(problem, 4).next_observation_predictor is None
        True
    """

    uses_transition_contexts: ClassVar[bool] = True

    name: str = "released"
    metric_weight: float = 10.0
    club_weight: float = 25.0
    guess_weight: float = 10.0
    cycle_weight: float = 1.0
    commitment_weight: float = 0.25
    code_contrast_weight: float = 1.0
    guess_hidden: list[int] = field(default_factory=lambda: [200, 200, 200])

    def build(self, problem: Problem, context_dim: int) -> ReleasedCTMRLLoss:
        """Build the codebook, the networks and the loss."""
        sizes, hidden = self.network_sizes(problem, context_dim), {"hidden": self.predictor_hidden}
        reward, change = problem.statistics[problem.reward_key], problem.statistics["observation_change"]
        next_observation_predictor = (
            make_next_observation_predictor(**sizes, **hidden, change_statistics=change)
            if problem.context_next_observation
            else None
        )
        loss = ReleasedCTMRLLoss(
            self.build_codebook(problem, context_dim),
            make_reward_predictor(**sizes, **hidden, target_statistics=reward),
            next_observation_predictor,
            make_behaviour_guess(**sizes, hidden=self.guess_hidden),
            metric_weight=self.metric_weight,
            club_weight=self.club_weight,
            guess_weight=self.guess_weight,
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
