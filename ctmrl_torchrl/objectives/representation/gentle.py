"""GENTLE's representation loss: a task autoencoder that reconstructs the encoded context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.objectives.checks import known_reduction, require_shape, require_weights
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.objectives.representation.checks import by_name
from ctmrl_torchrl.objectives.representation.likelihood import autoencoder_error
from ctmrl_torchrl.objectives.representation.prediction import PredictionKeys
from ctmrl_torchrl.scales import usable_scale
from ctmrl_torchrl.typed import dispatch, sequential


class TaskAutoencoderLoss(RepresentationLoss):
    """L = w * mean squared error of (r, s') of a context's transitions, given the context.

    Args:
        decoder (TensorDictModule): reads observation, action and context; writes the reward first and, if it
            has a second out-key, the next observation.

    Keyword Args:
        weight (float): w. Published: 10.
        reward_scale, next_observation_scale (Tensor, optional): units of the errors. A scale near zero is
            replaced by one.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]``, with gradient
        - ``prediction``: the sub-tensordict ``[T, L]`` to reconstruct; default ``"context"``
        - inside it ``observation``, ``action``, ``reward`` ``[T, L, 1]``, ``next_observation`` (if the decoder
          predicts it) and (optional) ``mask`` ``[T, L]``, true for valid transitions

    Out: ``loss_reconstruction`` and the detached ``reward_error`` (mean squared, in units of its scale).

    Gradients:

    =======================  ==============================================
    term                     reaches
    =======================  ==============================================
    ``loss_reconstruction``  contexts (hence the encoder) and the decoder
    =======================  ==============================================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry or a prediction has the wrong shape.

    Examples:
        >>> from ctmrl_torchrl.modules.decoders import make_transition_decoder
        >>> sizes = dict(observation_dim=3, action_dim=2, context_dim=4)
        >>> loss = TaskAutoencoderLoss(make_transition_decoder(**sizes, next_observation=False))
        >>> context = {"observation": torch.randn(5, 7, 3), "action": torch.rand(5, 7, 2)}
        >>> context["next"] = {"reward": torch.randn(5, 7, 1)}
        >>> batch = TensorDict({"context": context, "task_context": torch.randn(5, 4)}, [5])
        >>> sorted(loss(batch).keys())
        ['loss_reconstruction', 'reward_error']
    """

    reward_scale: Tensor
    next_observation_scale: Tensor

    @dataclass
    class _AcceptedKeys(PredictionKeys):
        context: NestedKey = "context"
        prediction: NestedKey = "context"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        decoder: TensorDictModuleBase,
        *,
        weight: float = 10.0,
        reward_scale: Tensor | None = None,
        next_observation_scale: Tensor | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.reduction = known_reduction(reduction, type(self).__name__)
        self.decoder = decoder
        require_weights(type(self).__name__, weight=weight)
        self.weight = weight
        for name, scale in (("reward", reward_scale), ("next_observation", next_observation_scale)):
            unit = torch.ones(1) if scale is None else usable_scale(torch.zeros_like(scale), scale)
            self.register_buffer(f"{name}_scale", unit)
        self.out_keys = ["loss_reconstruction", "reward_error"]

    @property
    def _targets(self) -> list[NestedKey]:
        keys = self.tensor_keys
        return [keys.reward, keys.next_observation][: len(self.decoder.out_keys)]

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the forward pass reads."""
        keys = self.tensor_keys
        leaves = (keys.observation, keys.action, *self._targets)
        return [keys.task_context, *(join_key(keys.prediction, leaf) for leaf in leaves)]

    @property
    def reward_predictor(self) -> TensorDictModuleBase:
        """The decoder, restricted to rewards."""
        return sequential(self.decoder, selected_out_keys=self.decoder.out_keys[:1])

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the term."""
        keys, name = self.tensor_keys, type(self).__name__
        context = read(tensordict, keys.task_context, name)
        require_shape(context, ("T", "d"), reader=name, what=repr(keys.task_context), hint="one per task.")
        batch = read(tensordict, keys.prediction, name)
        observation, action = (read(batch, key, name) for key in (keys.observation, keys.action))
        lead, hint = (len(context), *observation.shape[1:2]), "the transitions [T, L] of every task."
        require_shape(observation, (*lead, "features"), reader=name, what=repr(keys.observation), hint=hint)
        repeated = context.unsqueeze(1).expand(*lead, context.shape[-1])
        inputs = {"observation": observation, "action": action, "task_context": repeated}
        entries = by_name(self.decoder, keys, inputs)
        decoded = self.decoder(TensorDict(entries, lead))
        pairs = []
        scales = (self.reward_scale, self.next_observation_scale)
        for out_key, key, scale in zip(self.decoder.out_keys, self._targets, scales, strict=False):
            guess, target = decoded.get(out_key), read(batch, key, name)
            require_shape(
                target,
                guess.shape,
                reader=name,
                what=repr(key),
                hint="the shape of the prediction; a reward is [T, L, 1].",
            )
            require_shape(
                scale.expand(torch.broadcast_shapes(scale.shape, guess.shape)),
                guess.shape,
                reader=name,
                what=f"{key!r} divided by its scale",
                hint="a scale has one number, or one per predicted number.",
            )
            pairs.append((guess / scale, target / scale))
        mask = batch.get(keys.mask, None)
        error = autoencoder_error(*pairs, mask=mask)
        reward_error = autoencoder_error(pairs[0], mask=mask).detach().mean()
        loss = self._reduce_loss(self.weight * error)
        return TensorDict({"loss_reconstruction": loss, "reward_error": reward_error}, [])
