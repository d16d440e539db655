"""What the losses with a codebook share: codes, predictors, and errors of their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.modules.standardise import usable_scale
from ctmrl_torchrl.objectives.checks import known_reduction, require_entries, require_shape
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.objectives.representation.checks import require_contexts, require_second_draw
from ctmrl_torchrl.objectives.representation.terms import prediction_error


class CodebookLoss(RepresentationLoss):
    """Base of the losses that hold a codebook and predict transitions from a context.

    Args:
        codebook (Codebook): matches contexts with codes.
        reward_predictor, next_observation_predictor (TensorDictModule): read (some of) ``observation``,
            ``action`` and ``task_context`` and write their prediction under their last out-key. Without the
            second (None) only rewards are predicted.

    Keyword Args:
        reward_scale, next_observation_scale (Tensor, optional): spread of the targets; errors count in its
            units; (almost) zero counts as one, as in the predictors.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Attributes:
        warm_up (bool): true while the codebook has no part in the loss.
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
        next_observation_predictor: TensorDictModuleBase | None,
        *,
        reward_scale: Tensor | None = None,
        next_observation_scale: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.reduction = known_reduction(reduction, type(self).__name__)
        self.codebook = codebook
        self.reward_predictor = reward_predictor
        self.next_observation_predictor = next_observation_predictor
        self.warm_up = False
        self.register_buffer("reward_spread", _spread(reward_scale))
        self.register_buffer("next_observation_spread", _spread(next_observation_scale))

    def reset_parameters_recursive(self) -> None:
        """Draw codes and predictors anew."""
        self.codebook.reset_parameters()
        for _, predictor in self._predictors:
            predictor.reset_parameters_recursive()

    @property
    def _predictors(self) -> list[tuple[NestedKey, TensorDictModuleBase]]:
        """What is predicted, and by what."""
        keys = self.tensor_keys
        both = (
            (keys.reward, self.reward_predictor),
            (keys.next_observation, self.next_observation_predictor),
        )
        return [(key, predictor) for key, predictor in both if predictor is not None]

    def predict(self, batch: TensorDictBase, context: Tensor) -> dict[NestedKey, Tensor]:
        """Rewards and next observations of transitions ``[T, B]`` in the tasks of the contexts ``[T, d]``."""
        keys = self.tensor_keys
        observation, action = self._read(batch, keys.observation), self._read(batch, keys.action)
        lead, mend = (*context.shape[:1], *observation.shape[1:2]), "the transitions [T, L] of every task."
        self._shaped(observation, (*lead, "features"), keys.observation, mend)
        self._shaped(action, (*lead, "features"), keys.action, mend)
        repeated = context.unsqueeze(-2).expand(*lead, context.shape[-1])
        entries = {keys.observation: observation, keys.action: action, keys.task_context: repeated}
        inputs = TensorDict(entries, batch_size=lead)
        return {key: self._predicted(key, predictor, inputs) for key, predictor in self._predictors}

    def _predicted(self, key: NestedKey, predictor: TensorDictModuleBase, inputs: TensorDictBase) -> Tensor:
        require_entries(inputs, predictor.in_keys, f"{type(self).__name__}'s predictor of {key!r}")
        return predictor(inputs.copy()).get(predictor.out_keys[-1])

    def _answer(self, transitions: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions with the outcomes that the predictors expect, written into them."""
        for key, answer in self.predict(transitions, task_context).items():
            if transitions.get(key, None) is not None:  # not every encoder is shown both
                transitions.set(key, answer)
        return transitions

    def _prediction_errors(self, batch: TensorDictBase, context: Tensor) -> list[Tensor]:
        """L_r and L_s of every task for one context: Eq. (4)-(5) with c_spe, Eq. (7)-(8) with c_cro."""
        keys = self.tensor_keys
        spreads = {keys.reward: self.reward_spread, keys.next_observation: self.next_observation_spread}
        mask = batch.get(keys.mask, None)
        if mask is not None:
            lead = batch.get(keys.observation).shape[:-1]
            self._shaped(mask, lead, keys.mask, "one flag per transition.")
        return [
            prediction_error(prediction, self._target(batch, key, prediction), spreads[key], mask)
            for key, prediction in self.predict(batch, context).items()
        ]

    def _target(self, batch: TensorDictBase, key: NestedKey, prediction: Tensor) -> Tensor:
        mend = "as the prediction of it; a scalar reward is [T, L, 1]."
        return self._shaped(self._read(batch, key), prediction.shape, key, mend)

    def _shaped(self, value: Tensor, expected: Sequence[int | str], key: NestedKey, mend: str) -> Tensor:
        return require_shape(value, expected, reader=type(self).__name__, what=repr(key), mend=mend)

    def _contexts(self, tensordict: TensorDictBase, *, contrasted: bool) -> Tensor:
        """The task contexts, once they, the second draw and the number of tasks are as they must be.

        Args:
            contrasted: whether the loss compares tasks, now or after the warm-up.
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
        """Index and code matched with every context; in training mode the codes follow (Eq. 1 and 2)."""
        matched = self.codebook(TensorDict({self.codebook.in_keys[0]: task_context}, [task_context.shape[0]]))
        code_index, cross_task_context = (matched.get(key) for key in self.codebook.out_keys)
        return code_index, cross_task_context

    def _read(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor | TensorDictBase:
        return read(tensordict, key, type(self).__name__)

    def _reported(self, terms: dict[str, Tensor], reward_error: Tensor) -> TensorDictBase:
        """The reduced terms, how the codes are used, and how well rewards are predicted."""
        out = {name: self._reduce_loss(values) for name, values in terms.items()}
        out["perplexity"] = self.codebook.perplexity()
        out["dead_codes"] = self.codebook.dead_codes()
        out["reward_error"] = reward_error.detach().mean()
        return TensorDict(out, [])


#: what every such loss puts out beside its terms
DIAGNOSTICS = ("perplexity", "dead_codes", "reward_error")


def _spread(scale: Tensor | None) -> Tensor:
    return torch.ones(1) if scale is None else usable_scale(scale)
