"""The CQ-VAE objective of CTMRL: predictions from both contexts, code classification, hard contrast."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.modules.standardise import usable_scale
from ctmrl_torchrl.objectives.representation.base import RepresentationConfig
from ctmrl_torchrl.objectives.representation.terms import (
    code_classification,
    hard_contrastive,
    prediction_error,
)
from ctmrl_torchrl.problem import Problem


class CQVAELoss(LossModule):
    """L = w1 L_pre_spe + w2 L_pre_cro + w3 L_C + w4 L_contra (CTMRL, Eq. 3-10).

    Gradients: L_pre_spe reaches the contexts (hence the encoder) and the predictors; L_pre_cro the codes and
    the predictors, never the encoder; L_C the contexts and the codes; L_contra the contexts of both draws.
    A weight of 0 switches a term off and skips its work. While :attr:`warm_up` is true only L_pre_spe is
    active and the codebook is left alone.

    Args:
        codebook (Codebook): matches contexts with codes.
        reward_predictor, next_observation_predictor (TensorDictModule): read ``observation``, ``action`` and
            ``task_context`` and write their prediction under their last out-key.

    Keyword Args:
        prediction_weight, cross_prediction_weight, code_weight, contrastive_weight (float): w1 to w4; 1 each.
        temperature (float): tau of Eq. (3) and (10). Defaults to 0.1.
        extra_negatives (int): M of Eq. (10). Defaults to 4.
        reward_scale, next_observation_scale (Tensor, optional): spread of the targets; errors count in its
            units; (almost) zero counts as one, as in the predictors.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]`` and ``task_context_positive`` ``[T, d]``: two independent draws, with
          gradient
        - ``task_id`` ``[T]`` (optional): a task drawn twice is then not its own negative
        - ``prediction``: the sub-tensordict ``[T, L]`` whose transitions are predicted; default
          ``"context"``, the paper's choice; ``"transitions"`` predicts the policy batch instead
        - inside it ``observation``, ``action``, ``reward``, ``next_observation`` and (optional) ``mask``

    Out:
        ``loss_prediction``, ``loss_cross_prediction``, ``loss_code``, ``loss_contrastive`` and the detached
        ``perplexity``, ``dead_codes``, ``reward_error`` (mean squared, in units of the reward's
        variance).

    Raises:
        ValueError: if the batch holds a single task while the contrastive term is on.
        KeyError: if an entry that is needed is missing.
    """

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"
        task_context_positive: NestedKey = "task_context_positive"
        task_id: NestedKey = "task_id"
        prediction: NestedKey = "context"
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        reward: NestedKey = ("next", "reward")
        next_observation: NestedKey = ("next", "observation")
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        codebook: Codebook,
        reward_predictor: TensorDictModuleBase,
        next_observation_predictor: TensorDictModuleBase,
        *,
        prediction_weight: float = 1.0,
        cross_prediction_weight: float = 1.0,
        code_weight: float = 1.0,
        contrastive_weight: float = 1.0,
        temperature: float = 0.1,
        extra_negatives: int = 4,
        reward_scale: Tensor | None = None,
        next_observation_scale: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"CQVAELoss: temperature={temperature} must be positive.")
        self.codebook = codebook
        self.reward_predictor = reward_predictor
        self.next_observation_predictor = next_observation_predictor
        self.prediction_weight = prediction_weight
        self.cross_prediction_weight = cross_prediction_weight
        self.code_weight = code_weight
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        self.extra_negatives = extra_negatives
        self.reduction = reduction
        self.warm_up = False
        self.register_buffer("reward_spread", _spread(reward_scale))
        self.register_buffer("next_observation_spread", _spread(next_observation_scale))
        self._set_in_keys()

    @property
    def uses_positive(self) -> bool:
        """Whether the second context draw is needed now: only the contrastive term reads it."""
        return self.contrastive_weight != 0 and not self.warm_up

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        leaves = (keys.observation, keys.action, keys.reward, keys.next_observation)
        self.in_keys = [
            keys.task_context,
            keys.task_context_positive,
            *(join_key(keys.prediction, leaf) for leaf in leaves),
        ]
        self.out_keys = [
            "loss_prediction",
            "loss_cross_prediction",
            "loss_code",
            "loss_contrastive",
            "perplexity",
            "dead_codes",
            "reward_error",
        ]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._set_in_keys()

    def _predict(self, batch: TensorDictBase, context: Tensor) -> tuple[Tensor, Tensor]:
        """L_r and L_s of every task for one context: Eq. (4)-(5) with c_spe, Eq. (7)-(8) with c_cro."""
        keys = self.tensor_keys
        observation = self._read(batch, keys.observation)
        inputs = TensorDict(
            {
                keys.observation: observation,
                keys.action: self._read(batch, keys.action),
                keys.task_context: context.unsqueeze(-2).expand(*observation.shape[:-1], context.shape[-1]),
            },
            batch_size=observation.shape[:-1],
        )
        reward = self.reward_predictor(inputs).get(self.reward_predictor.out_keys[-1])
        following = self.next_observation_predictor(inputs).get(self.next_observation_predictor.out_keys[-1])
        mask = batch.get(keys.mask, None)
        return (
            prediction_error(reward, self._read(batch, keys.reward), self.reward_spread, mask),
            prediction_error(
                following, self._read(batch, keys.next_observation), self.next_observation_spread, mask
            ),
        )

    def _read(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor | TensorDictBase:
        return read(tensordict, key, type(self).__name__)

    def _reduce(self, values: Tensor) -> Tensor:
        if self.reduction == "none":
            return values
        return values.sum() if self.reduction == "sum" else values.mean()

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the four terms."""
        keys = self.tensor_keys
        task_context = self._read(tensordict, keys.task_context)
        if self.contrastive_weight and task_context.shape[0] < 2:
            raise ValueError(
                "CQVAELoss: the batch holds one task, but the contrastive term (Eq. 10) compares tasks; "
                "sample at least two tasks per batch or set contrastive_weight=0."
            )
        batch = self._read(tensordict, keys.prediction)
        zeros = task_context.new_zeros(task_context.shape[0])
        terms = dict.fromkeys(self.out_keys[:4], zeros)
        error_reward = zeros
        if self.prediction_weight:
            error_reward, error_next = self._predict(batch, task_context)
            terms["loss_prediction"] = self.prediction_weight * (error_reward + error_next)
        if not self.warm_up:
            matched = self.codebook(
                TensorDict({self.codebook.in_keys[0]: task_context}, [task_context.shape[0]])
            )
            code_index, cross_task_context = (matched.get(key) for key in self.codebook.out_keys)
            if self.cross_prediction_weight:
                cross = sum(self._predict(batch, cross_task_context))
                terms["loss_cross_prediction"] = self.cross_prediction_weight * cross
            if self.code_weight:
                terms["loss_code"] = self.code_weight * code_classification(
                    task_context, self.codebook.codes, code_index, self.temperature
                )
            if self.contrastive_weight:
                terms["loss_contrastive"] = self.contrastive_weight * hard_contrastive(
                    task_context,
                    self._read(tensordict, keys.task_context_positive),
                    code_index,
                    temperature=self.temperature,
                    extra_negatives=self.extra_negatives,
                    task_id=tensordict.get(keys.task_id, None),
                )
        out = {name: self._reduce(values) for name, values in terms.items()}
        out["perplexity"] = self.codebook.perplexity()
        out["dead_codes"] = self.codebook.dead_codes()
        out["reward_error"] = error_reward.detach().mean()
        return TensorDict(out, [])


def _spread(scale: Tensor | None) -> Tensor:
    return torch.ones(1) if scale is None else usable_scale(scale)


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

    def build(self, problem: Problem, context_dim: int) -> CQVAELoss:
        """Build the codebook, the predictors and the loss."""
        if self.predict not in ("context", "transitions"):
            raise ValueError(f"representation.predict={self.predict!r}; choose 'context' or 'transitions'.")
        sizes = {
            "observation_dim": problem.observation_dim,
            "action_dim": problem.action_dim,
            "context_dim": context_dim,
            "hidden": self.predictor_hidden,
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
            reward_scale=reward[1],
            next_observation_scale=change[1],
        )
        loss.set_keys(prediction=self.predict, reward=problem.reward_key)
        return loss
