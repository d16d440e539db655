"""Shared code of methods with a codebook: the configuration and the part that schedules the codes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from ctmrl_torchrl.methods.base import Facts, RepresentationConfig
from ctmrl_torchrl.methods.codebook_schedule import CodebookSchedule
from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.standardise import finer
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    SWITCH,
    WIDTHS,
    or_none,
    require,
    ruled,
    whole,
)


@dataclass
class CodebookConfig(RepresentationConfig):
    """Base configuration of losses with a codebook.

    Args:
        codes (int): N, the number of codes.
        prediction_weight (float): w1, weight of L_pre_spe. contrastive_weight (float): w4, weight of L_contra.
        extra_negatives (int): M, negatives for tasks alone on their code. update_rate (float): eta of Eq. (2).
        predictor_hidden (list of int): hidden layers of the reward and next-observation predictors.
        observation_gain (float or None): scale of the predictors' observations, as in the policy's networks.
        kmeans (bool): false keeps random initial codes and disables refreshes (the paper's ablation).
        kmeans_epochs (int): number of epochs in the representation phase. At the end of each, contexts of all
            training tasks are collected for K-means.
        kmeans_from (float): fraction of the representation phase after which contexts are collected.
        kmeans_at (float): fraction of it after which K-means initializes the codes and the codebook terms
            begin. Before that, the encoder is trained only with the prediction term.
        kmeans_refreshes (int): number of equal intervals of the representation phase, with a K-means refresh
            at the end of each one after the initialization.
        kmeans_contexts (int): contexts collected per task and epoch.
    """

    protocol_options: ClassVar[tuple[str, ...]] = ("reward_predictor",)

    codes: int = ruled(8, whole(1))
    prediction_weight: float = ruled(1.0, NOT_NEGATIVE)
    contrastive_weight: float = ruled(1.0, NOT_NEGATIVE)
    extra_negatives: int = ruled(4, whole(0))
    update_rate: float = ruled(0.1, SHARE)
    predictor_hidden: list[int] = ruled([256, 256, 256], WIDTHS)
    observation_gain: float | None = ruled(None, or_none(POSITIVE))
    kmeans: bool = ruled(True, SWITCH)
    kmeans_epochs: int = ruled(100, whole(1))
    kmeans_from: float = ruled(0.2, SHARE)
    kmeans_at: float = ruled(0.3, SHARE_BELOW_ONE)
    kmeans_refreshes: int = ruled(20, whole(1))
    kmeans_contexts: int = ruled(1, whole(1), allocates="per task")

    @property
    def num_candidates(self) -> int:
        """The number of codes."""
        return self.codes

    def build_codebook(self, context_dim: int, *, follows: bool = True) -> Codebook:
        """Build the codebook; for updates in the forward pass see :class:`Codebook`."""
        return Codebook(self.codes, context_dim, update_rate=self.update_rate, follows=follows)

    def network_sizes(self, problem: Problem, context_dim: int) -> dict[str, Any]:
        """Arguments of every network on observation and action, except its hidden layers."""
        return {
            "observation_dim": problem.observation_dim,
            "action_dim": problem.action_dim,
            "context_dim": context_dim,
            "observation_statistics": finer(problem.statistics["observation"], self.observation_gain),
        }

    def parts(self, setting: Setting) -> list[Part]:
        """The schedule of the codes."""
        return [
            CodebookSchedule(
                setting.loss,
                setting.draw_contexts,
                updates=setting.representation_updates,
                kmeans=self.kmeans,
                epochs=self.kmeans_epochs,
                collect_from=self.kmeans_from,
                initialize_at=self.kmeans_at,
                refreshes=self.kmeans_refreshes,
                contexts_per_epoch=self.kmeans_contexts,
                seed=setting.seed,
            )
        ]

    def check(self, facts: Facts) -> None:
        """Check that there are tasks to contrast, and that K-means has a phase and as many contexts as codes."""
        require(
            facts.training_tasks > 1 or not self.contrastive_weight,
            "representation.contrastive_weight",
            self.contrastive_weight,
            "0 with one training task, because the contrastive term compares different tasks; or use data of at "
            "least two training tasks",
        )
        if not self.kmeans:
            return
        length = max(facts.representation_updates, 1.0)
        require(
            facts.representation_updates > 0,
            "schedule.representation_end",
            0,
            "more than 0 with representation.kmeans=true, which places the codes within the representation "
            "phase",
        )
        require(
            math.ceil(self.kmeans_at * length) < length,
            "representation.kmeans_at",
            self.kmeans_at,
            f"smaller: K-means must begin within the representation phase, which has only {length:g} updates",
        )
        contexts = facts.training_tasks * self.kmeans_contexts
        require(
            self.codes <= contexts,
            "representation.codes",
            self.codes,
            f"at most {contexts}, the contexts that K-means gets in one epoch ({facts.training_tasks} training "
            f"tasks x representation.kmeans_contexts={self.kmeans_contexts}), or representation.kmeans=false",
        )
