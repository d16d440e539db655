"""The CQ-VAE objective of CTMRL: predictions from both contexts, code classification, hard contrast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.modules.standardise import usable_scale
from ctmrl_torchrl.objectives.checks import known_reduction, require_entries, require_shape
from ctmrl_torchrl.objectives.representation.checks import require_contexts, require_second_draw
from ctmrl_torchrl.objectives.representation.relabel import mix_other_tasks
from ctmrl_torchrl.objectives.representation.terms import (
    code_classification,
    hard_contrastive,
    prediction_error,
)

TERMS = ("loss_prediction", "loss_cross_prediction", "loss_code", "loss_contrastive")


class CQVAELoss(LossModule):
    """L = w1 L_pre_spe + w2 L_pre_cro + w3 L_C + w4 L_contra (CTMRL, Eq. 3-10).

    Gradients: L_pre_spe reaches the contexts (hence the encoder) and the predictors; L_pre_cro the codes and
    the predictors, never the encoder; L_C the contexts and the codes; L_contra the contexts of both draws.
    A weight of 0 switches a term off and skips its work. While :attr:`warm_up` is true only L_pre_spe is
    active and the codebook is left alone.

    Args:
        codebook (Codebook): matches contexts with codes.
        reward_predictor, next_observation_predictor (TensorDictModule): read (some of) ``observation``,
            ``action`` and ``task_context`` and write their prediction under their last out-key.

    Keyword Args:
        prediction_weight, cross_prediction_weight, code_weight, contrastive_weight (float): w1 to w4; 1 each.
        temperature (float): tau of Eq. (3) and (10). Defaults to 0.1.
        extra_negatives (int): M of Eq. (10). Defaults to 4.
        reward_scale, next_observation_scale (Tensor, optional): spread of the targets; errors count in its
            units; (almost) zero counts as one, as in the predictors.
        relabelled_fraction (float): share of the contexts in which transitions of another task take part,
            relabelled by the predictors after the warm-up; :class:`~ctmrl_torchrl.objectives.MetaLoss` asks
            for it before it encodes (:meth:`augment`). Defaults to 0.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]`` and ``task_context_positive`` ``[T, d]``: two independent draws, with
          gradient; the second is among ``in_keys`` only while the contrastive term is on
        - ``task_id`` ``[T]`` (optional): a task drawn twice is then not its own negative
        - ``prediction``: the sub-tensordict ``[T, L]`` whose transitions are predicted; default
          ``"context"``, the paper's choice; ``"transitions"`` predicts the policy batch instead
        - inside it ``observation`` ``[T, L, features]``, ``action`` ``[T, L, actions]``,
          ``reward`` ``[T, L, 1]``, ``next_observation`` as the observation, and (optional) ``mask``
          ``[T, L]``, true where a transition counts
        Optional entries are not among ``in_keys``: keep them when you select from a batch.

    Out:
        ``loss_prediction``, ``loss_cross_prediction``, ``loss_code``, ``loss_contrastive`` and the detached
        ``perplexity``, ``dead_codes``, ``reward_error`` (mean squared, in units of the reward's
        variance). The input is left as it was.

    Codebook and predictors stay plain modules (``functional`` is false): none of them has a target or is one
    of several, and others act with the very same modules.

    Raises:
        KeyError: if an entry that is needed is missing.
        ValueError: if an entry or a prediction has another shape than said here; if the latent size is not
            the codebook's; if the batch holds a single task while the contrastive term is on.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from ctmrl_torchrl.modules import make_next_observation_predictor, make_reward_predictor
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> loss = CQVAELoss(
        ...     Codebook(8, 4), make_reward_predictor(**sizes), make_next_observation_predictor(**sizes)
        ... )
        >>> following = {"reward": torch.randn(5, 7, 1), "observation": torch.randn(5, 7, 3)}
        >>> state = {"observation": torch.randn(5, 7, 3), "action": torch.rand(5, 7, 2)}
        >>> contexts = {"task_context": torch.randn(5, 4), "task_context_positive": torch.randn(5, 4)}
        >>> batch = TensorDict({"context": state | {"next": following}} | contexts, [5])
        >>> sorted(name for name in loss(batch).keys() if name.startswith("loss_"))
        ['loss_code', 'loss_contrastive', 'loss_cross_prediction', 'loss_prediction']
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
        relabelled_fraction: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"CQVAELoss: temperature={temperature} must be positive.")
        self.reduction = known_reduction(reduction, "CQVAELoss")
        if not 0.0 <= relabelled_fraction <= 1.0:
            raise ValueError(f"CQVAELoss: relabelled_fraction={relabelled_fraction} must lie in [0, 1].")
        self.codebook = codebook
        self.reward_predictor = reward_predictor
        self.next_observation_predictor = next_observation_predictor
        self.prediction_weight = prediction_weight
        self.cross_prediction_weight = cross_prediction_weight
        self.code_weight = code_weight
        self.contrastive_weight = contrastive_weight
        self.temperature = temperature
        self.extra_negatives = extra_negatives
        self.relabelled_fraction = relabelled_fraction
        self.warm_up = False
        self.register_buffer("reward_spread", _spread(reward_scale))
        self.register_buffer("next_observation_spread", _spread(next_observation_scale))
        self.out_keys = [*TERMS, "perplexity", "dead_codes", "reward_error"]

    @property
    def uses_positive(self) -> bool:
        """Whether the second context draw is needed now: by the contrastive term, or to relabel the first."""
        return (self.contrastive_weight != 0 or self.relabelled_fraction != 0) and not self.warm_up

    @property
    def _contrasts(self) -> bool:
        """Whether the contrastive term is on now."""
        return self.contrastive_weight != 0 and not self.warm_up

    @property
    def augmented_keys(self) -> list[NestedKey]:
        """What :meth:`augment` reads of a context."""
        keys = self.tensor_keys
        return [keys.observation, keys.action] if self.relabelled_fraction else []

    @property
    def functional(self) -> bool:
        """False: the modules keep their own parameters."""
        return False

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the coming forward pass reads."""
        keys = self.tensor_keys
        contexts = [keys.task_context] + ([keys.task_context_positive] if self._contrasts else [])
        leaves = (keys.observation, keys.action, keys.reward, keys.next_observation)
        return [*contexts, *(join_key(keys.prediction, leaf) for leaf in leaves)]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """Nothing to do: ``in_keys`` follow the keys, and there is no value estimator."""

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """Refuse: nothing here is bootstrapped."""
        raise NotImplementedError(
            f"{type(self).__name__} estimates no value; choose the value estimator of the policy loss."
        )

    def reset_parameters_recursive(self) -> None:
        """Draw codes and predictors anew."""
        self.codebook.reset_parameters()
        self.reward_predictor.reset_parameters_recursive()
        self.next_observation_predictor.reset_parameters_recursive()

    def predict(self, batch: TensorDictBase, context: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and next observations of transitions ``[T, B]`` in the tasks of the contexts ``[T, d]``."""
        keys = self.tensor_keys
        observation, action = self._read(batch, keys.observation), self._read(batch, keys.action)
        lead, mend = (*context.shape[:1], *observation.shape[1:2]), "the transitions [T, L] of every task."
        self._shaped(observation, (*lead, "features"), keys.observation, mend)
        self._shaped(action, (*lead, "features"), keys.action, mend)
        repeated = context.unsqueeze(-2).expand(*lead, context.shape[-1])
        entries = {keys.observation: observation, keys.action: action, keys.task_context: repeated}
        inputs = TensorDict(entries, batch_size=lead)
        return (
            self._predicted(keys.reward, self.reward_predictor, inputs),
            self._predicted(keys.next_observation, self.next_observation_predictor, inputs),
        )

    def _predicted(self, key: NestedKey, predictor: TensorDictModuleBase, inputs: TensorDictBase) -> Tensor:
        require_entries(inputs, predictor.in_keys, f"{type(self).__name__}'s predictor of {key!r}")
        return predictor(inputs.copy()).get(predictor.out_keys[-1])

    def augment(self, context: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions ``[T, L]`` to encode, given contexts ``[T, d]`` of the tasks from another draw."""
        if not self.relabelled_fraction:
            return context
        return mix_other_tasks(context, task_context, self._relabel, self.relabelled_fraction)

    def _relabel(self, transitions: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        names = (self.tensor_keys.reward, self.tensor_keys.next_observation)
        for key, answer in zip(names, self.predict(transitions, task_context), strict=True):
            if transitions.get(key, None) is not None:  # not every encoder is shown both
                transitions.set(key, answer)
        return transitions

    def _prediction_errors(self, batch: TensorDictBase, context: Tensor) -> tuple[Tensor, Tensor]:
        """L_r and L_s of every task for one context: Eq. (4)-(5) with c_spe, Eq. (7)-(8) with c_cro."""
        keys = self.tensor_keys
        reward, following = self.predict(batch, context)
        mask = batch.get(keys.mask, None)
        if mask is not None:
            self._shaped(mask, reward.shape[:-1], keys.mask, "one flag per transition.")
        return (
            prediction_error(reward, self._target(batch, keys.reward, reward), self.reward_spread, mask),
            prediction_error(
                following,
                self._target(batch, keys.next_observation, following),
                self.next_observation_spread,
                mask,
            ),
        )

    def _target(self, batch: TensorDictBase, key: NestedKey, prediction: Tensor) -> Tensor:
        mend = "as the prediction of it; a scalar reward is [T, L, 1]."
        return self._shaped(self._read(batch, key), prediction.shape, key, mend)

    def _shaped(self, value: Tensor, expected: Sequence[int | str], key: NestedKey, mend: str) -> Tensor:
        return require_shape(value, expected, reader=type(self).__name__, what=repr(key), mend=mend)

    def _contexts(self, tensordict: TensorDictBase) -> Tensor:
        """The task contexts, once they, the second draw and the number of tasks are as they must be."""
        keys, name = self.tensor_keys, type(self).__name__
        size = self.codebook.codes.shape[-1]
        context = require_contexts(tensordict, keys.task_context, latent_size=size, reader=name)
        if self.contrastive_weight and context.shape[0] < 2:
            raise ValueError(
                f"{name}: the batch holds one task, but the contrastive term (Eq. 10) compares tasks; "
                "sample at least two tasks per batch or set contrastive_weight=0."
            )
        if self._contrasts:
            names = {"positive": keys.task_context_positive, "task_id": keys.task_id}
            require_second_draw(tensordict, context, **names, reader=name)
        return context

    def _read(self, tensordict: TensorDictBase, key: NestedKey) -> Tensor | TensorDictBase:
        return read(tensordict, key, type(self).__name__)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the four terms."""
        keys, task_context = self.tensor_keys, self._contexts(tensordict)
        batch = self._read(tensordict, keys.prediction)
        zeros = task_context.new_zeros(task_context.shape[0])
        terms = dict.fromkeys(TERMS, zeros)
        error_reward = zeros
        if self.prediction_weight:
            error_reward, error_next = self._prediction_errors(batch, task_context)
            terms["loss_prediction"] = self.prediction_weight * (error_reward + error_next)
        if not self.warm_up:
            matched = self.codebook(
                TensorDict({self.codebook.in_keys[0]: task_context}, [task_context.shape[0]])
            )
            code_index, cross_task_context = (matched.get(key) for key in self.codebook.out_keys)
            if self.cross_prediction_weight:
                cross = sum(self._prediction_errors(batch, cross_task_context))
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
        out = {name: self._reduce_loss(values) for name, values in terms.items()}
        out["perplexity"] = self.codebook.perplexity()
        out["dead_codes"] = self.codebook.dead_codes()
        out["reward_error"] = error_reward.detach().mean()
        return TensorDict(out, [])


def _spread(scale: Tensor | None) -> Tensor:
    return torch.ones(1) if scale is None else usable_scale(scale)
