"""UNICORN's representation losses: metric loss with likelihood, or classification of the task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn

from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.modules.standardise import Standardise, Statistics, Unstandardise
from ctmrl_torchrl.objectives.checks import known_reduction, require_shape, require_weights
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.objectives.representation.checks import by_name
from ctmrl_torchrl.objectives.representation.likelihood import gaussian_error, task_classification
from ctmrl_torchrl.objectives.representation.metric import MetricLoss
from ctmrl_torchrl.typed import dispatch, sequential

#: weight of the distance between the learned bounds of a decoder's log-variance
BOUND_WEIGHT = 0.01


class UNICORNLoss(MetricLoss):
    """``beta L_met + NLL(s' - s) + NLL(r)``: contexts of tasks repel each other and explain their transitions.

    Two Gaussian decoders read observation, action and the context that was encoded from these transitions.
    Without decoders, only FOCAL's term remains.

    Args:
        change_decoder, reward_decoder (TensorDictModule or None): predict the change of the observation and the
            reward; see :func:`~ctmrl_torchrl.modules.decoders.make_gaussian_predictor`. Give both or
            neither.

    Keyword Args:
        metric_weight (float): beta, the weight of FOCAL's term. Defaults to 0.15.
        change_statistics, reward_statistics (Statistics, optional): standardize the targets, so that beta is
            comparable across environments. The released code uses raw targets.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]``, with gradient, and ``task_id`` ``[T]``
        - ``context`` ``[T, L]``: the transitions, with ``observation``, ``action``, ``reward``,
          ``next_observation`` and (optional) ``mask``

    Out: ``loss_metric``, ``loss_change``, ``loss_reward`` and the detached ``context_distance``.

    Gradients:

    ================================  ========================================
    term                              reaches
    ================================  ========================================
    ``loss_metric``                   contexts (hence the encoder)
    ``loss_change``, ``loss_reward``  contexts and the decoder of the target
    ================================  ========================================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry has the wrong shape, the batch holds a single context, or only one decoder is
            given.

    Source: UNICORN (NeurIPS 2024), as released.

    Examples:
        >>> from ctmrl_torchrl.modules.decoders import make_gaussian_predictor
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> decoders = (make_gaussian_predictor(**sizes, out_features=size) for size in (3, 1))
        >>> loss = UNICORNLoss(*decoders)
        >>> state = {"observation": torch.randn(5, 7, 3), "action": torch.randn(5, 7, 2)}
        >>> state["next"] = {"observation": torch.randn(5, 7, 3), "reward": torch.randn(5, 7, 1)}
        >>> batch = {"context": state, "task_context": torch.randn(5, 4), "task_id": torch.arange(5)}
        >>> sorted(loss(TensorDict(batch, [5])).keys())
        ['context_distance', 'loss_change', 'loss_metric', 'loss_reward']
    """

    curve_titles = {
        **MetricLoss.curve_titles,
        "loss_change": "Prediction loss, next observation",
        "loss_reward": "Prediction loss, reward",
    }

    @dataclass
    class _AcceptedKeys(MetricLoss._AcceptedKeys):
        context: NestedKey = "context"
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        reward: NestedKey = ("next", "reward")
        next_observation: NestedKey = ("next", "observation")
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        change_decoder: TensorDictModule | None = None,
        reward_decoder: TensorDictModule | None = None,
        *,
        metric_weight: float = 0.15,
        change_statistics: Statistics | None = None,
        reward_statistics: Statistics | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(metric_weight=metric_weight, reduction=reduction)
        if (change_decoder is None) != (reward_decoder is None):
            raise ValueError(f"{type(self).__name__}: give both decoders or neither.")
        self.change_decoder, self.reward_decoder = change_decoder, reward_decoder
        self.standardise_change = _standardise(change_statistics)
        self.standardise_reward = _standardise(reward_statistics)
        explained = [] if change_decoder is None else ["loss_change", "loss_reward"]
        self.out_keys = ["loss_metric", *explained, "context_distance"]

    @property
    def _leaves(self) -> list[NestedKey]:
        keys = self.tensor_keys
        if self.change_decoder is None:
            return []
        return [keys.observation, keys.action, keys.reward, keys.next_observation]

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """One draw, whose transitions the decoders read and predict."""
        return {"context": self._leaves}

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the forward pass reads."""
        keys = self.tensor_keys
        return [keys.task_context, keys.task_id, *(join_key(keys.context, leaf) for leaf in self._leaves)]

    @property
    def reward_predictor(self) -> TensorDictModuleBase | None:
        """The mean of the decoded reward, in raw units; None without decoders."""
        decoder = self.reward_decoder
        if decoder is None:
            return None
        loc, scaled = decoder.out_keys[-2], self.standardise_reward
        raw = [Unstandardise(scaled.loc, scaled.scale)] if isinstance(scaled, Standardise) else []
        return sequential(
            decoder, *(TensorDictModule(each, [loc], [loc]) for each in raw), selected_out_keys=[loc]
        )

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the terms."""
        out = super().forward(tensordict)
        return out if self.change_decoder is None else out.update(self._explained(tensordict))

    def _explained(self, tensordict: TensorDictBase) -> dict[str, Tensor]:
        keys, name = self.tensor_keys, type(self).__name__
        context, batch = read(tensordict, keys.task_context, name), read(tensordict, keys.context, name)
        observation, action, reward, following = (read(batch, leaf, name) for leaf in self._leaves)
        lead = (context.shape[0], observation.shape[1])
        for leaf, value in zip(self._leaves, (observation, action, reward, following), strict=True):
            hint = (
                "the transitions [T, L] from which the contexts were encoded; a scalar reward is [T, L, 1]."
            )
            require_shape(value, (*lead, "features"), reader=name, what=repr(leaf), hint=hint)
        repeated = context.unsqueeze(-2).expand(*lead, context.shape[-1])
        mask = batch.get(keys.mask, None)
        inputs = {"observation": observation, "action": action, "task_context": repeated}
        change, outcome = self.standardise_change(following - observation), self.standardise_reward(reward)
        return {
            "loss_change": self._error(self.change_decoder, inputs, change, mask),
            "loss_reward": self._error(self.reward_decoder, inputs, outcome, mask),
        }

    def _error(
        self,
        decoder: Any,
        inputs: dict[str, Tensor],
        target: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        shown = TensorDict(by_name(decoder, self.tensor_keys, inputs), inputs["action"].shape[:-1])
        outputs = decoder(shown)
        loc, log_variance = (outputs.get(key) for key in decoder.out_keys[-2:])
        hint = "the shape of the prediction; a reward is [T, L, 1], and its statistics have one number."
        require_shape(target, loc.shape, reader=type(self).__name__, what="the target", hint=hint)
        error = gaussian_error(loc, log_variance, target, mask)
        return self._reduce_loss(error + BOUND_WEIGHT * decoder.module.bound_width())


def _standardise(statistics: Statistics | None) -> nn.Module:
    return nn.Identity() if statistics is None else Standardise(*statistics)


class TaskClassificationLoss(RepresentationLoss):
    """UNICORN-SUP's loss: cross-entropy of classifying the training task from the context.

    Args:
        classifier (TensorDictModule): reads ``task_context``, writes one logit per task.
        task_ids (sequence of int): the tasks of the logits.

    Keyword Args:
        weight (float): weight of the term. Defaults to 1.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]``, with gradient, and ``task_id`` ``[T]``

    Out: ``loss_classification`` and the detached ``task_accuracy``.

    Gradients:

    =======================  ============================================
    term                     reaches
    =======================  ============================================
    ``loss_classification``  contexts (hence the encoder), the classifier
    =======================  ============================================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry, or the output of the classifier, has the wrong shape.

    A task that is not among ``task_ids`` makes the loss NaN.

    Source: UNICORN (NeurIPS 2024), the supervised variant, which is not in the released code.

    Examples:
        >>> classifier = TensorDictModule(nn.Linear(4, 3), ["task_context"], ["task_logits"])
        >>> loss = TaskClassificationLoss(classifier, [3, 5, 9])
        >>> batch = {"task_context": torch.randn(2, 4), "task_id": torch.tensor([9, 3])}
        >>> sorted(loss(TensorDict(batch, [2])).keys())
        ['loss_classification', 'task_accuracy']
    """

    task_ids: Tensor

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"
        task_id: NestedKey = "task_id"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        classifier: TensorDictModule,
        task_ids: Sequence[int],
        *,
        weight: float = 1.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.register_buffer("task_ids", torch.as_tensor(list(task_ids)))
        require_weights(type(self).__name__, weight=weight)
        self.weight = weight
        self.reduction = known_reduction(reduction, type(self).__name__)
        self.out_keys = ["loss_classification", "task_accuracy"]

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the forward pass reads."""
        return [self.tensor_keys.task_context, self.tensor_keys.task_id]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the term."""
        keys, name = self.tensor_keys, type(self).__name__
        context, task_id = (read(tensordict, key, name) for key in self.in_keys)
        hint = "one context per task."
        require_shape(context, ("T", "d"), reader=name, what=repr(keys.task_context), hint=hint)
        hint = "one id per context."
        require_shape(task_id, context.shape[:1], reader=name, what=repr(keys.task_id), hint=hint)
        shown = TensorDict({self.classifier.in_keys[0]: context}, context.shape[:1])
        out_key = self.classifier.out_keys[-1]
        logits = self.classifier(shown).get(out_key)
        expected = (len(context), len(self.task_ids))
        require_shape(
            logits, expected, reader=name, what=repr(out_key), hint="one logit per task of task_ids."
        )
        error = self.weight * task_classification(logits, task_id, self.task_ids)
        right = (self.task_ids[logits.argmax(-1)] == task_id).to(error.dtype).mean()
        return TensorDict({"loss_classification": self._reduce_loss(error), "task_accuracy": right}, [])
