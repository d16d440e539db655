"""ER-TRL's representation loss: the distance metric and the entropy of the behavior given the context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.behaviour_gan import BehaviourGAN
from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.objectives.checks import require_weights
from ctmrl_torchrl.objectives.representation.checks import known_entries
from ctmrl_torchrl.objectives.representation.metric import MetricLoss
from ctmrl_torchrl.typed import dispatch

OUTPUTS = ("loss_metric", "loss_entropy", "context_distance", "behaviour_entropy", "gan_accuracy")


class BehaviourEntropyLoss(MetricLoss):
    """L = w1 L_metric - w2 mean_t H_t, with H_t the entropy of generated actions of task t.

    Generator and discriminator are modules of the loss, but have separate optimizers. They learn in
    :meth:`BehaviourGAN.inner_steps
    <ctmrl_torchrl.modules.behaviour_gan.BehaviourGAN.inner_steps>` on
    the output of :meth:`behaviour`. No term of this loss has a gradient to them.

    Args:
        gan (BehaviourGAN or None): imitates the behavior; None disables the second term.

    Keyword Args:
        metric_weight, entropy_weight (float): w1 and w2. reduction (str): ``"mean"``, ``"sum"`` or ``"none"``
            over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]``, with gradient; ``task_id`` ``[T]``: see :class:`MetricLoss`
        - ``transitions`` ``[T, B]``, and inside it ``observation``: the states for which actions are
          generated; ``action``: the behavior's actions, which :meth:`behaviour` reads

    Out: ``loss_metric``, ``loss_entropy``, and detached ``context_distance``, ``behaviour_entropy`` (mean
    H_t) and ``gan_accuracy`` (the discriminator's accuracy in its last step; at 0.5 it cannot distinguish real
    from generated actions).

    Gradients:

    ================  ==============================
    term              reaches
    ================  ==============================
    ``loss_metric``   contexts (hence the encoder)
    ``loss_entropy``  contexts; never the generator
    ================  ==============================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry has the wrong shape, the batch holds a single context, or the entropy weight is
            nonzero without a GAN.

    Examples:
        >>> from ctmrl_torchrl.modules.generative import (
        ...     make_behaviour_discriminator, make_behaviour_generator
        ... )
        >>> sizes = dict(observation_dim=3, context_dim=4, action_dim=2)
        >>> gan = BehaviourGAN(make_behaviour_generator(**sizes), make_behaviour_discriminator(**sizes))
        >>> loss = BehaviourEntropyLoss(gan, entropy_weight=2.5)
        >>> batch = {"task_context": torch.randn(5, 4), "task_id": torch.arange(5)}
        >>> batch["transitions"] = {"observation": torch.randn(5, 6, 3)}
        >>> sorted(loss(TensorDict(batch, [5])).keys())[-2:]
        ['loss_entropy', 'loss_metric']
    """

    gan_accuracy: Tensor
    curve_titles = {**MetricLoss.curve_titles, "loss_entropy": "Behavior entropy (negative)"}

    @dataclass
    class _AcceptedKeys(MetricLoss._AcceptedKeys):
        transitions: NestedKey = "transitions"
        observation: NestedKey = "observation"
        action: NestedKey = "action"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        gan: BehaviourGAN | None,
        *,
        metric_weight: float = 10.0,
        entropy_weight: float = 2.5,
        reduction: str = "mean",
    ) -> None:
        super().__init__(metric_weight=metric_weight, reduction=reduction)
        require_weights(type(self).__name__, entropy_weight=entropy_weight)
        if entropy_weight and gan is None:
            raise ValueError(
                f"{type(self).__name__}: entropy_weight={entropy_weight} needs gan=, which generates the "
                "actions; pass a BehaviourGAN or entropy_weight=0."
            )
        self.gan = gan
        self.entropy_weight = entropy_weight
        self.register_buffer("gan_accuracy", torch.tensor(0.5))
        self.out_keys = list(OUTPUTS)

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the forward pass reads."""
        keys = self.tensor_keys
        states = [join_key(keys.transitions, keys.observation)] if self.entropy_weight else []
        return [keys.task_context, keys.task_id, *states]

    def behaviour(
        self, tensordict: TensorDictBase, task_context: Tensor, *, with_actions: bool = True
    ) -> TensorDictBase:
        """The GAN's input ``[T, B]``: states (and actions) of the policy batch with their task's context.

        The entries have the names that the GAN reads: those of this loss, or their defaults.

        Args:
            tensordict (TensorDictBase): the meta-batch ``[T]``. task_context (Tensor): ``[T, d]``.
            with_actions (bool): whether to include the behavior's actions.
        """
        keys, name = self.tensor_keys, type(self).__name__
        transitions = read(tensordict, keys.transitions, name)
        observation = read(transitions, keys.observation, name)
        lead = observation.shape[:-1]
        repeated = task_context.view(len(task_context), *[1] * (len(lead) - 1), -1).expand(*lead, -1)
        inputs = {"observation": observation, "task_context": repeated}
        known = (
            None
            if self.gan is None
            else known_entries(self.gan.generator.in_keys[:-1], (keys, self.default_keys()), inputs)
        )
        entries = TensorDict(known or {getattr(keys, each): value for each, value in inputs.items()}, lead)
        if with_actions:
            action = keys.action if self.gan is None else self.gan.action
            entries.set(action, read(transitions, keys.action, name))
        return entries.flatten(1, -1) if len(lead) > 2 else entries

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute both terms."""
        out = self._distances(tensordict)
        context = read(tensordict, self.tensor_keys.task_context, type(self).__name__)
        entropy = context.new_zeros((len(context),))
        if self.entropy_weight and self.gan is not None:
            entropy = self.gan.entropy(self.behaviour(tensordict, context, with_actions=False))
        out.set("loss_entropy", self._reduce_loss(-self.entropy_weight * entropy))
        out.set("behaviour_entropy", entropy.detach().mean())
        return out.set("gan_accuracy", self.gan_accuracy.clone())
