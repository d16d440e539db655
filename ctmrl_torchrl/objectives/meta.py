"""A meta-RL agent's whole objective as one loss module: encode, represent, act."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase, dispatch
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.keys import join_key, read, rest_of_key
from ctmrl_torchrl.objectives.checks import require_entries, require_shape
from ctmrl_torchrl.objectives.delegation import PolicyDelegation
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss

#: entries that the representation loss is given, not the input
HANDED_ON = (
    "task_context",
    "task_context_positive",
    "task_context_reconstructed",
    "transition_contexts",
)


class MetaLoss(PolicyDelegation):
    """Sum of a representation loss on the context and a policy loss on (observation, detached task context).

    The encoder runs once per context draw, and once more where the representation loss reconstructs; the
    policy loss sees the context cut off from the graph, so the encoder learns from the representation loss
    alone.

    Args:
        context_encoder (TensorDictModule): reads keys below ``context`` and writes a task context ``[T, d]``
            under ``task_context`` or, if it has no such out-key, under its last one.
        representation_loss (RepresentationLoss): e.g. :class:`~ctmrl_torchrl.objectives.CQVAELoss`.
        policy_loss (LossModule): e.g. :class:`~ctmrl_torchrl.objectives.BRACSACLoss` or any of TorchRL's
            (``SACLoss``, ``IQLLoss``, ...); its networks read ``task_context``.

    Keys (see ``set_keys``):
        - ``context`` and ``context_positive`` ``[T, L]``: two draws; the encoder is shown both below
          ``context``. The second is read only while :attr:`needs_positive`.
        - ``transitions`` ``[T, B]`` (or ``[T, B, time]``) in TorchRL's layout, for the policy loss
        - ``task_context`` and ``task_context_positive``: the names under which the contexts are handed on;
          so are ``task_context_reconstructed`` (of transitions that the representation loss has encoded
          again) and ``transition_contexts`` ``[T, L, d]`` (of every single transition, which the encoder
          then writes under this name). They are not read from the input. The representation loss is renamed
          along; networks are built with the names they read.
        - what the representation loss reads besides

    ``in_keys`` and ``out_keys`` are those of the coming forward pass; they follow the phase.

    Out: what the two losses put out. ``reduction`` is theirs. The input is left as it was.

    Targets and value estimator are the policy loss's, and found here too: ``SoftUpdate(loss, tau=...)``.

    Raises:
        KeyError: if an entry is missing.
        TypeError: if the representation loss is not a :class:`~ctmrl_torchrl.objectives.RepresentationLoss`.
        ValueError: if the encoder reads outside of ``context``, does not write one context per task, or none
            per transition where they are needed; if contexts and transitions are not of the same tasks.

    Attributes:
        representation_frozen (bool): when true the encoder runs without gradient and the representation loss
            is skipped (its outputs are left out): the last phase, in which only the policy learns.
        policy_frozen (bool): when true the policy loss is skipped (its outputs are left out): an encoder-only
            phase.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> from torchrl.objectives import SoftUpdate
        >>> from ctmrl_torchrl import modules
        >>> from ctmrl_torchrl.objectives import CQVAELoss, make_iql_loss
        >>> sizes = dict(observation_dim=2, context_dim=4)
        >>> predictors = modules.make_reward_predictor, modules.make_next_observation_predictor
        >>> loss = MetaLoss(
        ...     modules.make_context_encoder(feature_dims={("context", "observation"): 2}, context_dim=4),
        ...     CQVAELoss(modules.Codebook(3, 4), *(make(action_dim=2, **sizes) for make in predictors)),
        ...     make_iql_loss(
        ...         modules.make_actor(action_dim=2, **sizes),
        ...         modules.make_qvalue(action_dim=2, **sizes),
        ...         modules.make_value(**sizes),
        ...     ),
        ... )
        >>> targets = SoftUpdate(loss, tau=0.005)
        >>> def transitions(*shape):
        ...     never = torch.zeros(*shape, 1, dtype=torch.bool)
        ...     root = {"observation": torch.randn(*shape, 2), "action": torch.rand(*shape, 2)}
        ...     following = {"observation": torch.randn(*shape, 2), "reward": torch.randn(*shape, 1)}
        ...     return TensorDict(root | {"next": following | {"done": never, "terminated": never}}, shape)
        >>> meta_batch = TensorDict({"context": transitions(5, 7), "context_positive": transitions(5, 7),
        ...     "transitions": transitions(5, 6)}, [5])
        >>> loss.representation_frozen = True
        >>> sorted(loss(meta_batch).keys())
        ['entropy', 'loss_actor', 'loss_qvalue', 'loss_value']
    """

    @dataclass
    class _AcceptedKeys:
        context: NestedKey = "context"
        context_positive: NestedKey = "context_positive"
        transitions: NestedKey = "transitions"
        task_context: NestedKey = "task_context"
        task_context_positive: NestedKey = "task_context_positive"
        task_context_reconstructed: NestedKey = "task_context_reconstructed"
        transition_contexts: NestedKey = "transition_contexts"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        context_encoder: TensorDictModuleBase,
        representation_loss: RepresentationLoss,
        policy_loss: LossModule,
    ) -> None:
        super().__init__()
        if not isinstance(representation_loss, RepresentationLoss):
            raise TypeError(
                f"{type(self).__name__}: the representation loss {type(representation_loss).__name__} is no "
                "RepresentationLoss; derive it from ctmrl_torchrl.objectives.RepresentationLoss, which tells "
                "what is asked of it."
            )
        self.context_encoder = context_encoder
        self.representation = representation_loss
        self._adopt(policy_loss)
        self.representation_frozen = False
        self.policy_frozen = False
        self.out_keys = [*representation_loss.out_keys, *policy_loss.out_keys]

    def set_keys(self, **kwargs: NestedKey | None) -> None:
        """Rename keys, here and in the representation loss.

        The representation loss takes new names of the contexts that are handed on to it; where it predicts
        the transitions of ``context`` or of ``transitions``, it goes on with them under their new name.

        Args:
            kwargs: new names; None restores the default.

        Raises:
            ValueError: for a key that is none of this loss's.
        """
        before = replace(self.tensor_keys)
        super().set_keys(**kwargs)
        accepted = self.representation.tensor_keys
        renamed: dict[str, Any] = {
            name: getattr(self.tensor_keys, name)
            for name in HANDED_ON
            if name in kwargs and hasattr(accepted, name)
        }
        for name in ("context", "transitions"):
            if name in kwargs and getattr(accepted, "prediction", None) == getattr(before, name):
                renamed["prediction"] = getattr(self.tensor_keys, name)
        if renamed:
            self.representation.set_keys(**renamed)

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """Nothing to do: ``in_keys`` follow the keys, and the value estimator is the policy loss's."""

    def _features(self, context_key: NestedKey) -> list[NestedKey]:
        """What the encoder reads, of the draw under ``context_key``."""
        root = self.tensor_keys.context
        rests = {key: rest_of_key(key, root) for key in self.context_encoder.in_keys}
        outside = [key for key, rest in rests.items() if rest is None]
        if outside:
            raise ValueError(
                f"{type(self).__name__}: the context encoder reads {outside[0]!r}, which is not below the "
                f"context {root!r}; set_keys(context=...) to the root of what it reads."
            )
        return [join_key(context_key, *rest) for rest in rests.values()]

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the coming forward pass reads."""
        keys = self.tensor_keys
        needed = list(self.context_encoder.in_keys)
        handed_on = {getattr(keys, name) for name in HANDED_ON} | {join_key("next", keys.task_context)}
        if self.needs_positive:
            needed += self._features(keys.context_positive)
            needed += [join_key(keys.context, key) for key in self.representation.augmented_keys]
        if not self.representation_frozen:
            needed += [join_key(keys.context, key) for key in self.representation.reconstructed_keys]
            needed += [key for key in self.representation.in_keys if key not in handed_on]
        if not self.policy_frozen:
            policy = [unravel_key(key) for key in self.policy.in_keys]
            needed += [join_key(keys.transitions, key) for key in policy if key not in handed_on]
        return list(dict.fromkeys(needed))

    @property
    def out_keys(self) -> list[NestedKey]:
        """What the coming forward pass puts out; fewer after ``select_out_keys``."""
        skipped = set(self.representation.out_keys) if self.representation_frozen else set()
        skipped |= set(self.policy.out_keys) if self.policy_frozen else set()
        return [key for key in self._out_keys_apparent if key not in skipped]

    @out_keys.setter
    def out_keys(self, value: list[NestedKey]) -> None:
        self._out_keys = self._out_keys_apparent = list(value)

    @property
    def needs_positive(self) -> bool:
        """Whether the coming forward pass reads the second context draw."""
        return self.representation.uses_positive and not self.representation_frozen

    def encode(self, tensordict: TensorDictBase, context_key: NestedKey) -> Tensor:
        """Task contexts ``[T, d]`` of the draw under ``context_key``."""
        return self._encode(tensordict, self._draw(tensordict, context_key))

    def _draw(self, tensordict: TensorDictBase, context_key: NestedKey) -> Tensor | TensorDictBase:
        """The draw under ``context_key``, once all that the encoder reads of it is there."""
        context = read(tensordict, context_key, type(self).__name__)
        require_entries(tensordict, self._features(context_key), type(self.context_encoder).__name__)
        return context

    def _encode(self, tensordict: TensorDictBase, context: Tensor | TensorDictBase) -> Tensor:
        """The task contexts ``[T, d]`` of these transitions."""
        return self._task_context(tensordict, self._encoded(tensordict, context))

    def _encoded(self, tensordict: TensorDictBase, context: Tensor | TensorDictBase) -> TensorDictBase:
        """What the encoder writes about these transitions."""
        # A copy, so that what the encoder writes beside its features does not stay in the input.
        shown = context if isinstance(context, Tensor) else context.copy()
        return self.context_encoder(
            TensorDict({self.tensor_keys.context: shown}, batch_size=tensordict.batch_size[:1])
        )

    def _task_context(self, tensordict: TensorDictBase, encoded: TensorDictBase) -> Tensor:
        key, names = self.tensor_keys.task_context, self.context_encoder.out_keys
        out_key = key if key in names else names[-1]
        mend = "the context encoder writes one context per task (pool over the transitions)."
        expected = (*tensordict.batch_size[:1], "d") if tensordict.batch_dims else ("T", "d")
        reader = type(self).__name__
        return require_shape(encoded.get(out_key), expected, reader=reader, what=repr(out_key), mend=mend)

    def _transition_contexts(self, encoded: TensorDictBase) -> Tensor:
        key = self.tensor_keys.transition_contexts
        if key not in self.context_encoder.out_keys:
            raise ValueError(
                f"{type(self).__name__}: {type(self.representation).__name__} needs a context of every "
                f"single transition, but the context encoder does not write {key!r}; build it with "
                f"transition_key={key!r}."
            )
        return encoded.get(key)

    def policy_batch(self, tensordict: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions ``[T, B]`` with the detached context repeated over B, at this and the next step."""
        name, transitions = self.tensor_keys.task_context, self.tensor_keys.transitions
        batch = read(tensordict, transitions, type(self).__name__).copy()
        if batch.batch_dims < task_context.ndim:
            batch.auto_batch_size_(task_context.ndim)
        tasks, size = task_context.shape
        if batch.batch_dims < 2 or batch.shape[0] != tasks or 0 in batch.shape:
            raise ValueError(
                f"{type(self).__name__}: {transitions!r} has batch size {list(batch.shape)}, expected "
                f"[{tasks}, B]: one row per context, with transitions of that context's task."
            )
        repeated = task_context.detach().reshape(tasks, *(1 for _ in batch.shape[1:]), size)
        repeated = repeated.expand(*batch.shape, size)
        return batch.set(name, repeated).set(join_key("next", name), repeated)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """All losses of one meta-batch."""
        keys = self.tensor_keys
        out = TensorDict({}, [])
        if self.representation_frozen:
            with torch.no_grad():
                task_context = self.encode(tensordict, keys.context)
        else:
            work, context = tensordict.copy(), self._draw(tensordict, keys.context)
            work.batch_size = tensordict.batch_size[:1]
            if self.representation.uses_positive:
                positive = self.encode(tensordict, keys.context_positive)
                work.set(keys.task_context_positive, positive)
                if self.representation.augmented_keys:
                    context = self.representation.augment(context, positive.detach())
            encoded = self._encoded(tensordict, context)
            task_context = self._task_context(tensordict, encoded)
            work.set(keys.task_context, task_context)
            if self.representation.uses_transition_contexts:
                work.set(keys.transition_contexts, self._transition_contexts(encoded))
            if self.representation.reconstructed_keys:
                again = self.representation.reconstruct(context, task_context)
                work.set(keys.task_context_reconstructed, self._encode(tensordict, again))
            out.update(self.representation(work))
        if not self.policy_frozen:
            out.update(self.policy(self.policy_batch(tensordict, task_context)))
        return out
