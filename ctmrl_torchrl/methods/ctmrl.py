"""CTMRL (AAAI 2026): contexts quantized by a codebook (CQ-VAE) and contrasted within each code.

- encoder: mean of transition contexts (``method=ctmrl``), or with layers after it (``ctmrl_deep``)
- representation loss: :class:`~ctmrl_torchrl.objectives.CQVAELoss`, L_pre_spe + L_pre_cro + L_C + L_contra
- part: :class:`~ctmrl_torchrl.methods.codebook_schedule.CodebookSchedule`, warm-up and K-means of the codes
- ``ctmrl_paper`` follows the paper exactly: contexts of one trajectory, equations as written, trained end to end
- ``ctmrl_relabel`` mixes transitions of other tasks, relabeled by the predictors, into the contexts
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.methods.base import REPRESENTATIONS
from ctmrl_torchrl.methods.codebook import CodebookConfig
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.codebook import match_codes
from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.representation.cqvae import CQVAELoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import NOT_NEGATIVE, POSITIVE, SHARE, SWITCH, among, ruled


@REPRESENTATIONS.register("cqvae")
@dataclass
class CQVAEConfig(CodebookConfig):
    """Configuration of :class:`CQVAELoss`; weights of 0 are the paper's ablations (Table 2).

    Args:
        cross_prediction_weight (float): w2, weight of L_pre_cro. code_weight (float): w3, weight of L_C.
            Other codebook settings are in :class:`CodebookConfig`.
        temperature (float): tau of L_C and L_contra.
        predict (str): ``context`` predicts the context's own transitions (the paper), ``transitions`` the
            policy batch of the same task.
        as_written (bool): use the equations as published, see :class:`CQVAELoss`. Eq. (2) is then applied after
            the gradient step instead of before the losses.
        relabelled_fraction (float): fraction of contexts with relabeled transitions of another task.

    Examples:
        >>> import torch
        >>> keys = ("observation", "action", ("next", "reward"), "observation_change")
        >>> statistics = {key: (torch.zeros(1), torch.ones(1)) for key in keys}
        >>> problem = Problem(1, 1, 0.9, ("next", "reward"), False, statistics)
        >>> loss = CQVAEConfig(predictor_hidden=[8], predict="transitions").build(problem, 4)
        >>> loss.codebook.num_codes, loss.tensor_keys.prediction
        (8, 'transitions')
    """

    name: str = "cqvae"
    cross_prediction_weight: float = ruled(1.0, NOT_NEGATIVE)
    code_weight: float = ruled(1.0, NOT_NEGATIVE)
    temperature: float = ruled(0.1, POSITIVE)
    predict: str = ruled("context", among("context", "transitions"))
    relabelled_fraction: float = ruled(0.0, SHARE)
    as_written: bool = ruled(False, SWITCH)

    def build(self, problem: Problem, context_dim: int) -> CQVAELoss:
        """Build the codebook, the predictors and the loss."""
        sizes: dict[str, Any] = self.network_sizes(problem, context_dim) | {"hidden": self.predictor_hidden}
        reward, change = problem.statistics[problem.reward_key], problem.statistics["observation_change"]
        loss = CQVAELoss(
            self.build_codebook(context_dim, follows=not self.as_written),
            make_reward_predictor(**sizes, target_statistics=reward),
            make_next_observation_predictor(**sizes, change_statistics=change),
            prediction_weight=self.prediction_weight,
            cross_prediction_weight=self.cross_prediction_weight,
            code_weight=self.code_weight,
            contrastive_weight=self.contrastive_weight,
            temperature=self.temperature,
            extra_negatives=self.extra_negatives,
            relabelled_fraction=self.relabelled_fraction,
            as_written=self.as_written,
            reward_scale=reward[1],
            next_observation_scale=change[1],
        )
        loss.set_keys(prediction=self.predict, reward=problem.reward_key)
        return loss

    def parts(self, setting: Setting) -> list[Part]:
        """The schedule of the codes and, with ``as_written``, Eq. (2) after the gradient step."""
        parts = super().parts(setting)
        return [*parts, FollowingCodes(setting.loss)] if self.as_written else parts


class FollowingCodes(Part):
    """Applies Eq. (2) after an update: matched codes move towards the contexts of the update.

    Args:
        loss (MetaLoss): its representation loss has a ``codebook`` and a ``warm_up`` switch.
    """

    name = "following_codes"

    def __init__(self, loss: MetaLoss) -> None:
        self.loss = loss
        self._contexts: Tensor | None = None

    def inner_steps(self, batch: TensorDictBase, contexts: TensorDictBase) -> None:
        """Store the contexts from before the gradient step."""
        self._contexts = contexts["task_context"]

    def after_update(self, update: int) -> None:
        """Update the codes if they are in use and the representation learns."""
        representation = self.loss.representation
        if self._contexts is None or representation.warm_up or self.loss.representation_frozen:
            return
        codebook = representation.codebook
        codebook.update_(self._contexts, match_codes(self._contexts, codebook.codes.detach())[1])
        self._contexts = None
