"""The configuration of the CQ-VAE objective: from a few numbers to codebook, predictors and loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.modules.standardise import finer
from ctmrl_torchrl.objectives.representation.base import RepresentationConfig
from ctmrl_torchrl.objectives.representation.cqvae import CQVAELoss
from ctmrl_torchrl.problem import Problem


@dataclass
class CQVAEConfig(RepresentationConfig):
    """Configuration of :class:`CQVAELoss`; weights of 0 are the paper's ablations (Table 2).

    Args:
        codes (int or None): N; None takes the environment's default.
        prediction_weight, cross_prediction_weight, code_weight, contrastive_weight (float): w1 to w4.
        temperature (float): tau. extra_negatives (int): M. update_rate (float): eta of Eq. (2).
        predictor_hidden (list of int): widths of the reward and next-observation predictors.
        predict (str): ``context`` predicts the context's own transitions (the paper), ``transitions`` the
            policy batch of the same task.
        relabelled_fraction (float): share of the contexts with transitions of another task, relabelled.
        observation_gain (float or None): as for the policy's networks, for the predictors.

    Examples:
        >>> import torch
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, 8, ("next", "reward"), False, statistics)
        >>> loss = CQVAEConfig(predictor_hidden=[8], predict="transitions").build(problem, 4)
        >>> loss.codebook.num_codes, loss.tensor_keys.prediction
        (8, 'transitions')
    """

    name: str = "cqvae"
    codes: int | None = None
    prediction_weight: float = 1.0
    cross_prediction_weight: float = 1.0
    code_weight: float = 1.0
    contrastive_weight: float = 1.0
    temperature: float = 0.1
    extra_negatives: int = 4
    update_rate: float = 0.1
    predictor_hidden: list[int] = field(default_factory=lambda: [256, 256, 256])
    predict: str = "context"
    relabelled_fraction: float = 0.0
    observation_gain: float | None = None

    def build(self, problem: Problem, context_dim: int) -> CQVAELoss:
        """Build the codebook, the predictors and the loss."""
        if self.predict not in ("context", "transitions"):
            raise ValueError(f"representation.predict={self.predict!r}; choose 'context' or 'transitions'.")
        sizes = {
            "observation_dim": problem.observation_dim,
            "action_dim": problem.action_dim,
            "context_dim": context_dim,
            "hidden": self.predictor_hidden,
            "observation_statistics": finer(problem.statistics["observation"], self.observation_gain),
        }
        reward, change = problem.statistics[problem.reward_key], problem.statistics["observation_change"]
        loss = CQVAELoss(
            Codebook(self.codes or problem.codes, context_dim, update_rate=self.update_rate),
            make_reward_predictor(**sizes, target_statistics=reward),
            make_next_observation_predictor(**sizes, change_statistics=change),
            prediction_weight=self.prediction_weight,
            cross_prediction_weight=self.cross_prediction_weight,
            code_weight=self.code_weight,
            contrastive_weight=self.contrastive_weight,
            temperature=self.temperature,
            extra_negatives=self.extra_negatives,
            relabelled_fraction=self.relabelled_fraction,
            reward_scale=reward[1],
            next_observation_scale=change[1],
        )
        loss.set_keys(prediction=self.predict, reward=problem.reward_key)
        return loss
