"""Predicts rewards and next observations of a task from its context; any loss can use this module."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives.checks import require_entries, require_module, require_shape
from ctmrl_torchrl.objectives.representation.checks import known_entries
from ctmrl_torchrl.objectives.representation.terms import prediction_error, prediction_norm
from ctmrl_torchrl.scales import usable_scale


@dataclass
class PredictionKeys:
    """Keys of transitions ``[T, L]``; a loss's ``tensor_keys`` have the same fields.

    Examples:
        >>> PredictionKeys(reward=("next", "sparse_reward")).reward
        ('next', 'sparse_reward')
    """

    observation: NestedKey = "observation"
    action: NestedKey = "action"
    task_context: NestedKey = "task_context"
    reward: NestedKey = ("next", "reward")
    next_observation: NestedKey = ("next", "observation")
    mask: NestedKey = "mask"


class TransitionPredictors(nn.Module):
    """Predictors of rewards and next observations from a context, and their errors.

    Args:
        reward_predictor, next_observation_predictor (TensorDictModule or None): read (some of)
            ``observation``, ``action`` and ``task_context`` and write their prediction under their last
            out-key. If the second is None, only rewards are predicted.
        reader (str): the loss that uses them, for error messages.

    Keyword Args:
        reward_scale, next_observation_scale (Tensor, optional): scales of the targets, in whose units
            errors are measured. A scale near zero is replaced by one, as in the predictors.

    Keys: each method receives :class:`PredictionKeys` or any object with the same fields.

    Gradients: errors reach the predictors and the given context.

    Raises:
        TypeError: if a predictor is no TensorDictModule.
        KeyError: raised by the methods if an entry is missing.
        ValueError: raised by the methods if an entry or a prediction has the wrong shape.

    Examples:
        >>> from ctmrl_torchrl.modules import make_reward_predictor
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> predictors = TransitionPredictors(make_reward_predictor(**sizes), None)
        >>> batch = {"observation": torch.randn(5, 7, 3), "action": torch.rand(5, 7, 2)}
        >>> batch = TensorDict(batch | {"next": {"reward": torch.randn(5, 7, 1)}}, [5, 7])
        >>> [error.shape for error in predictors.errors(batch, torch.zeros(5, 4), PredictionKeys())]
        [torch.Size([5])]
    """

    reward_spread: Tensor
    next_observation_spread: Tensor

    def __init__(
        self,
        reward_predictor: TensorDictModuleBase,
        next_observation_predictor: TensorDictModuleBase | None,
        reader: str = "TransitionPredictors",
        *,
        reward_scale: Tensor | None = None,
        next_observation_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        for name, predictor in (
            ("reward", reward_predictor),
            ("next observation", next_observation_predictor),
        ):
            if predictor is not None:
                reads = '["observation", "action", "task_context"], ["prediction"]'
                require_module(predictor, f"the {name} predictor", reader, reads)
        self.reader = reader
        self.reward_predictor = reward_predictor
        self.next_observation_predictor = next_observation_predictor
        self.register_buffer("reward_spread", _spread(reward_scale))
        self.register_buffer("next_observation_spread", _spread(next_observation_scale))

    def _named(self) -> list[tuple[str, TensorDictModuleBase]]:
        both = (
            ("reward", self.reward_predictor),
            ("next_observation", self.next_observation_predictor),
        )
        return [(name, predictor) for name, predictor in both if predictor is not None]

    def targets(self, keys: PredictionKeys) -> list[NestedKey]:
        """The predicted keys."""
        return [getattr(keys, name) for name, _ in self._named()]

    def reset_parameters_recursive(self) -> None:
        """Reinitialize the predictors."""
        for _, predictor in self._named():
            predictor.reset_parameters_recursive()

    def predict(
        self, batch: TensorDictBase, context: Tensor, keys: PredictionKeys
    ) -> dict[NestedKey, Tensor]:
        """Predict rewards and next observations of transitions ``[T, B]`` under the contexts ``[T, d]``."""
        observation = read(batch, keys.observation, self.reader)
        action = read(batch, keys.action, self.reader)
        lead, hint = (*context.shape[:1], *observation.shape[1:2]), "the transitions [T, L] of every task."
        self._shaped(observation, (*lead, "features"), keys.observation, hint)
        self._shaped(action, (*lead, "features"), keys.action, hint)
        repeated = context.unsqueeze(-2).expand(*lead, context.shape[-1])
        inputs = {"observation": observation, "action": action, "task_context": repeated}
        predicted = {}
        for name, predictor in self._named():
            entries = known_entries(predictor.in_keys, (keys, PredictionKeys()), inputs)
            if entries is None:
                entries = {getattr(keys, each): value for each, value in inputs.items()}
            shown, key = TensorDict(entries, batch_size=lead), getattr(keys, name)
            require_entries(shown, predictor.in_keys, f"{self.reader}'s predictor of {key!r}")
            predicted[key] = predictor(shown).get(predictor.out_keys[-1])
        return predicted

    def answer(self, transitions: TensorDictBase, context: Tensor, keys: PredictionKeys) -> TensorDictBase:
        """The transitions with outcomes replaced by the predictors' outputs; the input is not modified."""
        transitions = transitions.copy()  # an indexed lazy stack is the caller's own data
        for key, answer in self.predict(transitions, context, keys).items():
            if transitions.get(key, None) is not None:  # some encoders read only one of them
                transitions.set(key, answer)
        return transitions

    def errors(
        self, batch: TensorDictBase, context: Tensor, keys: PredictionKeys, *, as_written: bool = False
    ) -> list[Tensor]:
        """L_r and L_s of every task, ``[T]`` each: CTMRL Eq. (4)-(5) with c_spe, Eq. (7)-(8) with c_cro.

        Mean squares in units of the targets' scale or, if ``as_written``, sums of norms in raw units.
        """
        spreads = {keys.reward: self.reward_spread, keys.next_observation: self.next_observation_spread}
        mask = batch.get(keys.mask, None)
        if mask is not None:
            lead = read(batch, keys.observation, self.reader).shape[:-1]
            self._shaped(mask, lead, keys.mask, "one flag per transition.")
        if as_written:
            return [
                prediction_norm(prediction, self._target(batch, key, prediction), mask)
                for key, prediction in self.predict(batch, context, keys).items()
            ]
        return [
            prediction_error(prediction, self._target(batch, key, prediction), spreads[key], mask)
            for key, prediction in self.predict(batch, context, keys).items()
        ]

    def _target(self, batch: TensorDictBase, key: NestedKey, prediction: Tensor) -> Tensor:
        hint = "the shape of its prediction; a scalar reward is [T, L, 1]."
        return self._shaped(read(batch, key, self.reader), prediction.shape, key, hint)

    def _shaped(self, value: Tensor, expected: tuple[int | str, ...], key: NestedKey, hint: str) -> Tensor:
        return require_shape(value, expected, reader=self.reader, what=repr(key), hint=hint)


def _spread(scale: Tensor | None) -> Tensor:
    return torch.ones(1) if scale is None else usable_scale(torch.zeros_like(scale), scale)
