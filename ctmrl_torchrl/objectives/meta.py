"""The complete objective of a meta-RL agent as one loss module: encoder, representation loss, policy loss."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey, unravel_key
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.modules.keys import join_key, read, rest_of_key
from ctmrl_torchrl.objectives.checks import require_flags, require_module, require_terms
from ctmrl_torchrl.objectives.critic_gradient import (
    CRITIC_LOSS,
    checked_critic_gradient,
    context_for_critic,
    critic_term,
    deferred_side_effects,
    with_critic_gradient,
)
from ctmrl_torchrl.objectives.delegation import PolicyDelegation
from ctmrl_torchrl.objectives.encoding import ContextEncoding, features_below
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.typed import dispatch

#: entries passed to the representation loss that do not come from the input
HANDED_ON = (
    "task_context",
    "task_context_positive",
    "task_context_reconstructed",
    "transition_contexts",
    "task_context_mean",
    "task_context_log_std",
)
#: keys that the representation loss renames as well
SHARED = (*HANDED_ON, "context", "context_positive", "task_id", "transitions")


class MetaLoss(PolicyDelegation):
    """Combines a representation loss on the context with a policy loss on (observation, task context).

    Contexts are computed in one place, :meth:`RepresentationLoss.contexts
    <ctmrl_torchrl.objectives.RepresentationLoss.contexts>`: by default the encoder runs once per context
    draw. The policy loss receives the detached context, so the encoder learns only from the representation
    loss unless ``critic_gradient`` is set.

    Args:
        context_encoder (TensorDictModule): reads keys below ``context`` and, optionally, ``task_id``; writes a
            task context ``[T, d]`` under ``task_context`` or, if it has no such out-key, under its last one.
        representation_loss (RepresentationLoss): e.g. :class:`~ctmrl_torchrl.objectives.CQVAELoss`.
        policy_loss (LossModule): e.g. :class:`~ctmrl_torchrl.objectives.BRACSACLoss` or any of TorchRL's
            (``SACLoss``, ``IQLLoss``, ...); its networks read ``task_context``.

    Keyword Args:
        critic_gradient (str): the part of the encoder that the gradient of ``loss_qvalue`` reaches: ``"none"``
            (the default), ``"pooling"`` (layers after the per-transition contexts) or ``"all"``. A policy loss
            without critics, such as imitation, has a single term, which takes its place. Other terms of the
            policy loss never reach the encoder.
        context_dim (int, optional): the size d for which the networks were built. A context of another size is
            then an error that names the encoder, before any network reads it.

    Keys (see ``set_keys``):
        - ``context`` and ``context_positive`` ``[T, L]``: two draws. The encoder receives each under
          ``context``. The second is read only while :attr:`needs_positive` is true.
        - ``task_id`` ``[T]``: read if the encoder or the representation loss needs it.
        - ``transitions`` ``[T, B]`` (or ``[T, B, time]``) in TorchRL's layout, for the policy loss
        - ``task_context`` and ``task_context_positive``: names under which contexts are passed to the losses.
          The same holds for ``task_context_reconstructed`` (contexts of transitions that the representation
          loss encoded again), and for the encoder outputs ``transition_contexts`` ``[T, L, d]`` (one context
          per transition), ``task_context_mean`` and ``task_context_log_std`` ``[T, d]`` (the distribution
          from which a context was sampled). They are not read from the input. The representation loss uses
          the new names too. Build the encoder and the networks of the policy loss with the names that they should
          read; networks of a representation loss may keep the default names.
        - other keys that the representation loss reads

    ``in_keys`` and ``out_keys`` describe the next forward pass; they depend on the phase.

    Gradients:

    ===================================  ================================================
    term                                 reaches
    ===================================  ================================================
    terms of the representation loss     encoder and the loss's modules; see its table
    ``loss_qvalue``                      critics; encoder according to ``critic_gradient``
    other terms of the policy loss       networks of the policy loss
    ===================================  ================================================

    Out: the outputs of both losses, with their reductions. The input is not modified.

    Targets and value estimator belong to the policy loss and are accessible here: ``SoftUpdate(loss, tau=...)``.

    Raises:
        KeyError: if an entry is missing.
        TypeError: if the representation loss does not subclass
            :class:`~ctmrl_torchrl.objectives.RepresentationLoss`; if the encoder is no TensorDictModule or the
            policy loss no ``LossModule``; or if a loss does not return a TensorDict.
        ValueError: if the encoder reads keys outside ``context``, does not write one context per task, or does
            not write required per-transition contexts; if contexts and transitions belong to different
            numbers of tasks; if ``critic_gradient`` is unknown or not supported; if a loss does not write a term
            that its ``out_keys`` promise.

    Attributes:
        representation_frozen (bool): if true, the encoder runs without gradients and the representation loss
            and its outputs are skipped. This is the last phase, in which only the policy learns.
        policy_frozen (bool): if true, the policy loss and its outputs are skipped: an encoder-only phase.

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

    if TYPE_CHECKING:
        representation: Any  # a RepresentationLoss with what its method adds

    @dataclass
    class _AcceptedKeys:
        context: NestedKey = "context"
        context_positive: NestedKey = "context_positive"
        transitions: NestedKey = "transitions"
        task_id: NestedKey = "task_id"
        task_context: NestedKey = "task_context"
        task_context_positive: NestedKey = "task_context_positive"
        task_context_reconstructed: NestedKey = "task_context_reconstructed"
        transition_contexts: NestedKey = "transition_contexts"
        task_context_mean: NestedKey = "task_context_mean"
        task_context_log_std: NestedKey = "task_context_log_std"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        context_encoder: TensorDictModuleBase,
        representation_loss: RepresentationLoss,
        policy_loss: LossModule,
        *,
        critic_gradient: str = "none",
        context_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(representation_loss, RepresentationLoss):
            raise TypeError(
                f"{type(self).__name__}: the representation loss {type(representation_loss).__name__} must "
                "subclass ctmrl_torchrl.objectives.RepresentationLoss, which defines the interface."
            )
        name, keys = type(self).__name__, '[("context", "observation")], ["task_context"]'
        require_module(context_encoder, "the context encoder", name, keys)
        if not isinstance(policy_loss, LossModule):
            raise TypeError(
                f"{name}: the policy loss is a {type(policy_loss).__name__}, expected a LossModule such as "
                "BRACSACLoss(...) or one of TorchRL's."
            )
        _require_second_context(representation_loss)
        self.critic_gradient = checked_critic_gradient(
            critic_gradient, context_encoder, policy_loss, type(self).__name__
        )
        self._critic_term = critic_term(policy_loss) or CRITIC_LOSS
        self.context_dim = context_dim
        self.context_encoder = context_encoder
        self.representation = representation_loss
        self._adopt(policy_loss)
        self.representation_frozen = False
        self.policy_frozen = False
        self.out_keys = [*representation_loss.out_keys, *policy_loss.out_keys]

    def set_keys(self, **kwargs: NestedKey | None) -> None:
        """Rename keys, here and in the representation loss.

        The representation loss also uses the new names of contexts that are passed to it. If it predicts the
        transitions of ``context`` or ``transitions``, it reads them under their new name.

        Args:
            kwargs: new names; None restores the default.

        Raises:
            ValueError: for a key that this loss does not have.
        """
        before = replace(self.tensor_keys)
        super().set_keys(**kwargs)
        accepted = self.representation.tensor_keys
        renamed: dict[str, Any] = {
            name: getattr(self.tensor_keys, name)
            for name in SHARED
            if name in kwargs and hasattr(accepted, name)
        }
        for name in ("context", "transitions"):
            if name in kwargs and getattr(accepted, "prediction", None) == getattr(before, name):
                renamed["prediction"] = getattr(self.tensor_keys, name)
        if renamed:
            self.representation.set_keys(**renamed)

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """Do nothing: ``in_keys`` follow the keys, and the value estimator belongs to the policy loss."""

    def _features(self, context_key: NestedKey) -> list[NestedKey]:
        """The encoder's in-keys for the draw under ``context_key``."""
        keys = asdict(self.tensor_keys)
        return features_below(self.context_encoder, keys, context_key, type(self).__name__)

    @property
    def _draws(self) -> dict[str, list[NestedKey]]:
        """The context draws that the next forward pass encodes, with additional keys read from each."""
        return {"context": []} if self.representation_frozen else self.representation.context_keys

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the next forward pass reads."""
        keys = self.tensor_keys
        needed: list[NestedKey] = []
        handed_on = {getattr(keys, name) for name in HANDED_ON} | {join_key("next", keys.task_context)}
        for name, read_besides in self._draws.items():
            draw = getattr(keys, name)
            needed += self._features(draw) + [join_key(draw, key) for key in read_besides]
        if not self.representation_frozen:
            needed += [key for key in self.representation.in_keys if key not in handed_on]
        if not self.policy_frozen:
            policy = [unravel_key(key) for key in self.policy.in_keys]
            needed += [join_key(keys.transitions, key) for key in policy if key not in handed_on]
        return list(dict.fromkeys(needed))

    @property
    def out_keys(self) -> list[NestedKey]:
        """Keys that the next forward pass returns, restricted by ``select_out_keys``."""
        skipped = set(self.representation.out_keys) if self.representation_frozen else set()
        skipped |= set(self.policy.out_keys) if self.policy_frozen else set()
        return [key for key in self._out_keys_apparent if key not in skipped]

    @out_keys.setter
    def out_keys(self, value: list[NestedKey]) -> None:
        self._out_keys = self._out_keys_apparent = list(value)

    @property
    def needs_positive(self) -> bool:
        """Whether the next forward pass reads the second context draw."""
        return "context_positive" in self._draws

    @property
    def policy_alone_reads_transitions(self) -> bool:
        """Whether the next forward pass reads ``transitions`` for the policy loss only."""
        if self.representation_frozen:
            return True
        root = self.tensor_keys.transitions
        return all(rest_of_key(key, root) is None for key in self.representation.in_keys)

    def encoding(self, tensordict: TensorDictBase) -> ContextEncoding:
        """The context draws of a meta-batch, bound to the encoder."""
        keys = asdict(self.tensor_keys)
        return ContextEncoding(self.context_encoder, tensordict, keys, type(self).__name__, self.context_dim)

    def encode(self, tensordict: TensorDictBase, context_key: NestedKey) -> Tensor:
        """Task contexts ``[T, d]`` of the draw under ``context_key``."""
        encoding = self.encoding(tensordict)
        return encoding(encoding.draw_under(context_key)).task_context

    def policy_batch(self, tensordict: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions ``[T, B]`` with the context repeated over B, at this and the next step."""
        name, transitions = self.tensor_keys.task_context, self.tensor_keys.transitions
        batch = cast(TensorDictBase, read(tensordict, transitions, type(self).__name__)).copy()
        if batch.batch_dims < task_context.ndim:
            batch.auto_batch_size_(task_context.ndim)
        action = batch.get(getattr(self.policy.tensor_keys, "action", None) or "action", None)
        if action is not None and batch.batch_dims == action.ndim:
            # called with keywords, and all entries have as many features: these are no dimension of the batch
            batch.batch_size = action.shape[:-1]  # pyright: ignore[reportAttributeAccessIssue] (a property)
        tasks, size = task_context.shape
        if batch.batch_dims < 2 or batch.shape[0] != tasks or 0 in batch.shape:
            raise ValueError(
                f"{type(self).__name__}: {transitions!r} has batch size {list(batch.shape)}, expected "
                f"[{tasks}, B]: one row per context, with transitions of that context's task."
            )
        names = (getattr(self.policy.tensor_keys, flag, None) for flag in ("done", "terminated"))
        flags = [join_key("next", flag) for flag in names if flag is not None]
        require_flags(batch, flags, f"{type(self.policy).__name__}, of {transitions!r}")
        repeated = task_context.reshape(tasks, *(1 for _ in batch.shape[1:]), size)
        repeated = repeated.expand(*batch.shape, size)
        return batch.set(name, repeated).set(join_key("next", name), repeated)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute all losses of one meta-batch."""
        keys = self.tensor_keys
        out, encoding = TensorDict({}, []), self.encoding(tensordict)
        if self.representation_frozen:
            with torch.no_grad():
                contexts = encoding(encoding.draw("context")).entries()
        else:
            work = tensordict.copy()
            work.batch_size = tensordict.batch_size[:1]  # pyright: ignore[reportAttributeAccessIssue] (a property)
            contexts = self.representation.contexts(encoding)
            # An entry of the input is not a context of this batch.
            work = work.exclude(*(getattr(keys, name) for name in HANDED_ON))
            for name in HANDED_ON:
                if name in contexts:
                    work.set(getattr(keys, name), contexts[name])
            out.update(_checked(self.representation, work))
        if not self.policy_frozen:
            out.update(self._policy_losses(tensordict, contexts))
        return out

    def _policy_losses(self, tensordict: TensorDictBase, contexts: dict[str, Tensor]) -> TensorDictBase:
        task_context = contexts["task_context"]
        learns = self.critic_gradient != "none" and not self.representation_frozen
        if not learns or not torch.is_grad_enabled():
            return _checked(self.policy, self.policy_batch(tensordict, task_context.detach()))
        source = context_for_critic(self.critic_gradient, self.context_encoder, contexts)
        # The transform of the losses may not change buffers: that waits until it has ended.
        with deferred_side_effects(self.policy) as apply:
            losses = with_critic_gradient(
                lambda context: _checked(self.policy, self.policy_batch(tensordict, context)),
                source,
                self._critic_term,
            )
        apply(losses)
        return losses


def _checked(loss: LossModule, tensordict: TensorDictBase) -> TensorDictBase:
    """The losses of a batch, which must contain every promised term."""
    losses = loss(tensordict)
    return require_terms(losses, loss.out_keys, type(loss).__name__)


def _require_second_context(loss: RepresentationLoss) -> None:
    """Require that a loss that reads contexts besides the first one computes them."""
    if type(loss).contexts is not RepresentationLoss.contexts:
        return
    in_keys = getattr(loss, "in_keys", None)
    if in_keys is None:
        raise TypeError(
            f"{type(loss).__name__} has no in_keys; define them as a list or a property with the keys that "
            'forward reads, such as ["task_context", "task_id"].'
        )
    for name in ("task_context_positive", "task_context_reconstructed"):
        if getattr(loss.tensor_keys, name, name) in in_keys:
            raise ValueError(
                f"{type(loss).__name__} reads {name!r}, which its method contexts() does not return; override "
                'context_keys, for a second draw with {"context": [], "context_positive": []}, and contexts().'
            )
