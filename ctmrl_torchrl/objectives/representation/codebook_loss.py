"""Shared code of losses with a codebook: codes, predictors and prediction errors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives.checks import known_reduction, require_shape
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.objectives.representation.checks import require_contexts, require_second_draw
from ctmrl_torchrl.objectives.representation.prediction import PredictionKeys, TransitionPredictors


class CodebookLoss(RepresentationLoss):
    """Base class of losses that hold a codebook and predict transitions from a context.

    Args:
        codebook (Codebook): matches contexts with codes.
        reward_predictor, next_observation_predictor (TensorDictModule): read (some of) ``observation``,
            ``action`` and ``task_context`` and write their prediction under their last out-key. If the
            second is None, only rewards are predicted.

    Keyword Args:
        reward_scale, next_observation_scale (Tensor, optional): scales of the targets, in whose units
            errors are measured. A scale near zero is replaced by one, as in the predictors.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Attributes:
        warm_up (bool): true while the loss does not use the codebook.
    """

    @dataclass
    class _AcceptedKeys(PredictionKeys):
        context: NestedKey = "context"
        context_positive: NestedKey = "context_positive"
        task_context_positive: NestedKey = "task_context_positive"
        task_id: NestedKey = "task_id"
        prediction: NestedKey = "context"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        codebook: Codebook,
        reward_predictor: TensorDictModuleBase,
        next_observation_predictor: TensorDictModuleBase | None,
        *,
        reward_scale: Tensor | None = None,
        next_observation_scale: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.reduction = known_reduction(reduction, name)
        self.codebook = codebook
        self.predictors = TransitionPredictors(
            reward_predictor,
            next_observation_predictor,
            name,
            reward_scale=reward_scale,
            next_observation_scale=next_observation_scale,
        )
        self.warm_up = False

    @property
    def reward_predictor(self) -> TensorDictModuleBase:
        """The predictor of rewards."""
        return self.predictors.reward_predictor

    @property
    def next_observation_predictor(self) -> TensorDictModuleBase | None:
        """The predictor of next observations, or None."""
        return self.predictors.next_observation_predictor

    @property
    def phase(self) -> Hashable:
        """Whether the loss uses the codebook."""
        return self.warm_up

    def _answer(self, transitions: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions with outcomes replaced by the predictors' outputs."""
        return self.predictors.answer(transitions, task_context, self.tensor_keys)

    def _prediction_errors(
        self, batch: TensorDictBase, context: Tensor, *, as_written: bool = False
    ) -> list[Tensor]:
        """L_r and L_s of every task for one context: Eq. (4)-(5) with c_spe, Eq. (7)-(8) with c_cro."""
        return self.predictors.errors(batch, context, self.tensor_keys, as_written=as_written)

    def _shaped(self, value: Tensor, expected: tuple[int | str, ...], key: NestedKey, hint: str) -> Tensor:
        return require_shape(value, expected, reader=type(self).__name__, what=repr(key), hint=hint)

    def _contexts(self, tensordict: TensorDictBase, *, contrasted: bool) -> Tensor:
        """Validate and return the task contexts; also checks the second draw and the number of tasks.

        Args:
            contrasted: whether the loss contrasts tasks, now or after the warm-up.
        """
        keys, name = self.tensor_keys, type(self).__name__
        size = self.codebook.codes.shape[-1]
        context = require_contexts(tensordict, keys.task_context, latent_size=size, reader=name)
        if contrasted and context.shape[0] < 2:
            raise ValueError(
                f"{name}: the batch holds one task, but the contrastive term (Eq. 10) compares tasks; "
                "sample at least two tasks per batch or set contrastive_weight=0."
            )
        if contrasted and not self.warm_up:
            names = {"positive": keys.task_context_positive, "task_id": keys.task_id}
            require_second_draw(tensordict, context, **names, reader=name)
        return context

    def _matched(self, task_context: Tensor) -> tuple[Tensor, Tensor]:
        """Index and code matched with every context; in training mode the codes are updated (Eq. 1 and 2)."""
        matched = self.codebook(TensorDict({self.codebook.in_keys[0]: task_context}, [task_context.shape[0]]))
        code_index, cross_task_context = (matched.get(key) for key in self.codebook.out_keys)
        return code_index, cross_task_context

    def _read(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor | TensorDictBase:
        return read(tensordict, key, type(self).__name__)

    def _reported(self, terms: dict[str, Tensor], reward_error: Tensor) -> TensorDictBase:
        """The reduced terms, code usage and the reward prediction error."""
        out = {name: self._reduce_loss(values) for name, values in terms.items()}
        out["perplexity"] = self.codebook.perplexity()
        out["dead_codes"] = self.codebook.dead_codes()
        out["reward_error"] = reward_error.detach().mean()
        return TensorDict(out, [])


#: outputs of every such loss in addition to its terms
DIAGNOSTICS = ("perplexity", "dead_codes", "reward_error")
