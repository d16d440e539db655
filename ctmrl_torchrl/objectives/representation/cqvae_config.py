"""The configuration of the CQ-VAE objective: from a few numbers to codebook, predictors and loss."""

from __future__ import annotations

from dataclasses import dataclass

from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.objectives.representation.codebook_config import CodebookConfig
from ctmrl_torchrl.objectives.representation.cqvae import CQVAELoss
from ctmrl_torchrl.problem import Problem


@dataclass
class CQVAEConfig(CodebookConfig):
    """Configuration of :class:`CQVAELoss`; weights of 0 are the paper's ablations (Table 2).

    Args:
        cross_prediction_weight, code_weight (float): w2 and w3; w1 and w4 are in :class:`CodebookConfig`,
            with what else losses with a codebook have.
        temperature (float): tau.
        predict (str): ``context`` predicts the context's own transitions (the paper), ``transitions`` the
            policy batch of the same task.
        relabelled_fraction (float): share of the contexts with transitions of another task, relabelled.

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
    cross_prediction_weight: float = 1.0
    code_weight: float = 1.0
    temperature: float = 0.1
    predict: str = "context"
    relabelled_fraction: float = 0.0

    def build(self, problem: Problem, context_dim: int) -> CQVAELoss:
        """Build the codebook, the predictors and the loss."""
        if self.predict not in ("context", "transitions"):
            raise ValueError(f"representation.predict={self.predict!r}; choose 'context' or 'transitions'.")
        sizes = self.network_sizes(problem, context_dim) | {"hidden": self.predictor_hidden}
        reward, change = problem.statistics[problem.reward_key], problem.statistics["observation_change"]
        loss = CQVAELoss(
            self.build_codebook(problem, context_dim),
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
