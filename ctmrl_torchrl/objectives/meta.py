"""A meta-RL agent's whole objective as one loss module: encode, represent, act."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.keys import join_key, read


class RepresentationLoss(Protocol):
    """What :class:`MetaLoss` asks of a representation loss (a LossModule with one extra attribute)."""

    uses_positive: bool
    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __call__(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Losses of the contexts under ``task_context`` and, if asked for, ``task_context_positive``."""


class MetaLoss(LossModule):
    """Sum of a representation loss on the context and a policy loss on (observation, detached task context).

    The encoder runs once per context draw; the policy loss sees the context cut off from the graph, so the
    encoder learns from the representation loss alone.

    Args:
        context_encoder (TensorDictModule): reads ``("context", ...)`` keys, writes ``task_context``
            ``[T, d]``.
        representation_loss (RepresentationLoss): e.g. :class:`~ctmrl_torchrl.objectives.CQVAELoss`.
        policy_loss (LossModule): e.g. :class:`~ctmrl_torchrl.objectives.BRACSACLoss` or TorchRL's
            ``IQLLoss``; its networks read ``task_context``.

    Keys (see ``set_keys``): ``context`` and ``context_positive`` ``[T, L]``, ``transitions`` ``[T, B]`` in
    TorchRL's layout. The encoder reads below ``context``; both draws are shown to it there. The contexts are
    put under ``task_context`` and ``task_context_positive`` for the two losses: after renaming them, give the
    representation loss the same names by its own ``set_keys`` and build the networks with them.

    Attributes:
        representation_frozen (bool): when true the encoder runs without gradient and the representation loss
            is skipped (its outputs are left out): the last phase, in which only the policy learns.
        policy_frozen (bool): when true the policy loss is skipped (its outputs are left out): an encoder-only
            phase.
    """

    @dataclass
    class _AcceptedKeys:
        context: NestedKey = "context"
        context_positive: NestedKey = "context_positive"
        transitions: NestedKey = "transitions"
        task_context: NestedKey = "task_context"
        task_context_positive: NestedKey = "task_context_positive"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        context_encoder: TensorDictModuleBase,
        representation_loss: RepresentationLoss,
        policy_loss: LossModule,
    ) -> None:
        super().__init__()
        self.context_encoder = context_encoder
        self.representation = representation_loss
        self.policy = policy_loss
        self.representation_frozen = False
        self.policy_frozen = False
        self._set_in_keys()

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        encoder_keys = list(self.context_encoder.in_keys)
        skipped = {keys.task_context, keys.task_context_positive, join_key("next", keys.task_context)}
        policy_keys = [key for key in self.policy.in_keys if key not in skipped]
        positive = []
        if self.representation.uses_positive:
            depth = 1 if isinstance(keys.context, str) else len(keys.context)
            positive = [join_key(keys.context_positive, key[depth:]) for key in encoder_keys]
        representation_keys = [key for key in self.representation.in_keys if key not in skipped]
        candidates = [
            *encoder_keys,
            *positive,
            *representation_keys,
            *(join_key(keys.transitions, key) for key in policy_keys),
        ]
        self.in_keys = list(dict.fromkeys(candidates))
        self.out_keys = [*self.representation.out_keys, *self.policy.out_keys]

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        self._set_in_keys()

    @property
    def needs_positive(self) -> bool:
        """Whether the coming forward pass reads the second context draw."""
        return self.representation.uses_positive and not self.representation_frozen

    def encode(self, tensordict: TensorDictBase, context_key: NestedKey) -> Tensor:
        """Task contexts ``[T, d]`` of the draw under ``context_key``."""
        key = self.tensor_keys.context
        context = read(tensordict, context_key, type(self).__name__)
        view = TensorDict({key: context}, batch_size=tensordict.batch_size)
        return self.context_encoder(view).get(self.context_encoder.out_keys[0])

    def policy_batch(self, tensordict: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions ``[T, B]`` with the detached context repeated over B, at this and the next step."""
        key = self.tensor_keys.task_context
        batch = read(tensordict, self.tensor_keys.transitions, type(self).__name__).copy()
        if batch.batch_dims < task_context.ndim:
            batch.auto_batch_size_(task_context.ndim)
        repeated = task_context.detach().unsqueeze(-2).expand(*batch.batch_size, task_context.shape[-1])
        return batch.set(key, repeated).set(join_key("next", key), repeated)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """All losses of one meta-batch."""
        keys = self.tensor_keys
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.representation_frozen):
            task_context = self.encode(tensordict, keys.context)
        out = TensorDict({}, [])
        if not self.representation_frozen:
            work = tensordict.copy().set(keys.task_context, task_context)
            if self.representation.uses_positive:
                work.set(keys.task_context_positive, self.encode(tensordict, keys.context_positive))
            out.update(self.representation(work))
        if not self.policy_frozen:
            out.update(self.policy(self.policy_batch(tensordict, task_context)))
        return out
