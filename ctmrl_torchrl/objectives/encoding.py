"""Encodes a meta-batch into contexts: context draws by name and the encoder's outputs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import join_key, read, rest_of_key
from ctmrl_torchrl.objectives.checks import require_entries, require_shape

#: optional encoder outputs: parameters of the distribution from which a context was sampled
DISTRIBUTION = ("task_context_mean", "task_context_log_std")


@dataclass(frozen=True)
class Encoded:
    """The encoder's output for one context draw.

    Args:
        task_context (Tensor): ``[T, d]``.
        outputs (TensorDictBase): everything that the encoder wrote.
        transition_key (NestedKey): key of the per-transition contexts.
        reader (str): the loss that reads it, for error messages.
        mask (Tensor, optional): ``[T, L]``, the valid transitions of the draw.
        others (mapping): other encoder outputs to pass on, with their keys.

    Examples:
        >>> import torch
        >>> encoded = Encoded(torch.zeros(5, 4), TensorDict({}, []), "transition_contexts", "MyLoss")
        >>> list(encoded.entries())
        ['task_context']
    """

    task_context: Tensor
    outputs: TensorDictBase
    transition_key: NestedKey
    reader: str
    mask: Tensor | None = None
    others: Mapping[str, NestedKey] = field(default_factory=dict)

    def entries(self) -> dict[str, Tensor]:
        """``task_context`` and, if the encoder writes them, ``transition_contexts`` and others, by name.

        Per-transition contexts come with their ``context_mask`` if the draw has one.
        """
        transitions = self.outputs.get(self.transition_key, None)
        contexts = {"task_context": self.task_context}
        if transitions is not None:
            contexts["transition_contexts"] = transitions
            if self.mask is not None:
                contexts["context_mask"] = self.mask
        others = {name: self.outputs.get(key, None) for name, key in self.others.items()}
        return contexts | {name: value for name, value in others.items() if value is not None}

    @property
    def transition_contexts(self) -> Tensor:
        """Per-transition contexts ``[T, L, d]``.

        Raises:
            ValueError: if the encoder does not write them.
        """
        value = self.outputs.get(self.transition_key, None)
        if value is None:
            raise ValueError(
                f"{self.reader} needs per-transition contexts, but the context encoder does not "
                f"write {self.transition_key!r}; build it with transition_key={self.transition_key!r}."
            )
        return value


class ContextEncoding:
    """The context draws of one meta-batch together with the encoder.

    Created by :class:`~ctmrl_torchrl.objectives.MetaLoss` for every forward pass and passed to
    :meth:`RepresentationLoss.contexts <ctmrl_torchrl.objectives.RepresentationLoss.contexts>`.

    Args:
        encoder (TensorDictModule): reads keys below ``keys["context"]`` and, optionally, ``keys["task_id"]``.
        tensordict (TensorDictBase): the meta-batch ``[T]``.
        keys (mapping): names of ``context``, ``context_positive``, ``task_id``, ``task_context`` and
            ``transition_contexts``.
        reader (str): the loss, for error messages.
        context_dim (int, optional): size d that a context must have.

    Examples:
        >>> import torch
        >>> from ctmrl_torchrl.modules import make_context_encoder
        >>> names = ("context", "context_positive", "task_id", "task_context", "transition_contexts")
        >>> encoding = ContextEncoding(
        ...     make_context_encoder(feature_dims={("context", "observation"): 2}, context_dim=4),
        ...     TensorDict({"context": {"observation": torch.zeros(5, 7, 2)}}, [5]),
        ...     {name: name for name in names},
        ...     "MyLoss",
        ... )
        >>> encoding(encoding.draw("context")).task_context.shape
        torch.Size([5, 4])
    """

    def __init__(
        self,
        encoder: TensorDictModuleBase,
        tensordict: TensorDictBase,
        keys: Mapping[str, NestedKey],
        reader: str,
        context_dim: int | None = None,
    ) -> None:
        self._context_dim = context_dim
        self._encoder = encoder
        self._tensordict = tensordict
        self._keys = keys
        self._reader = reader

    def draw(self, name: str = "context") -> TensorDictBase:
        """The transitions ``[T, L]`` of the draw ``"context"`` or ``"context_positive"``.

        Raises:
            KeyError: if the draw, or an entry of it that the encoder reads, is missing.
        """
        return self.draw_under(self._keys[name])

    def draw_under(self, key: NestedKey) -> TensorDictBase:
        """The draw under this key, after checking that it has every entry the encoder reads."""
        features = features_below(self._encoder, self._keys, key, self._reader)
        if any(feature != self._keys["task_id"] for feature in features):
            context = read(self._tensordict, key, self._reader)
        else:  # the encoder only reads the task id
            context = self._tensordict.get(key, TensorDict({}, self._tensordict.batch_size[:1]))
        require_entries(self._tensordict, features, str(type(self._encoder).__name__))
        return context

    def __call__(self, context: Tensor | TensorDictBase) -> Encoded:
        """Encode transitions ``[T, L]``: a draw, or a version of it modified by a loss."""
        # A copy, so that the encoder's outputs do not remain in the input.
        shown = context if isinstance(context, Tensor) else context.copy()
        entries = {self._keys["context"]: shown}
        if self._keys["task_id"] in self._encoder.in_keys:
            entries[self._keys["task_id"]] = self._tensordict.get(self._keys["task_id"])
        outputs = self._encoder(TensorDict(entries, batch_size=self._tensordict.batch_size[:1]))
        path = _mask_below(self._encoder, self._keys["context"], self._reader)
        mask = None if isinstance(context, Tensor) or path is None else context.get(path, None)
        transition_key = self._keys["transition_contexts"]
        others = {name: self._keys[name] for name in DISTRIBUTION if name in self._keys}
        return Encoded(self._task_context(outputs), outputs, transition_key, self._reader, mask, others)

    def _task_context(self, outputs: TensorDictBase) -> Tensor:
        key, names = self._keys["task_context"], self._encoder.out_keys
        out_key = key if key in names else names[-1]
        hint = "the context encoder writes one context per task (pool over the transitions)."
        batch = self._tensordict
        expected = (*batch.batch_size[:1], "d") if batch.batch_dims else ("T", "d")
        what = repr(out_key)
        value = read(outputs, out_key, str(type(self._encoder).__name__))
        require_shape(value, expected, reader=self._reader, what=what, hint=hint)
        if self._context_dim is not None and value.shape[-1] != self._context_dim:
            raise ValueError(
                f"{self._reader}: the encoder {type(self._encoder).__name__} wrote {value.shape[-1]} numbers per "
                f"context in key {what}, expected {self._context_dim}, the encoder.context_dim (or the size() "
                "of its configuration); give both the same size."
            )
        return value


def features_below(
    encoder: TensorDictModuleBase, keys: Mapping[str, NestedKey], draw: NestedKey, reader: str
) -> list[NestedKey]:
    """The encoder's in-keys for the draw under ``draw``; the task id is read from the root.

    Raises:
        ValueError: if the encoder reads anything else, or a mask, outside the context.
    """
    _mask_below(encoder, keys["context"], reader)
    found = []
    for key in encoder.in_keys:
        rest = rest_of_key(key, keys["context"])
        if rest is not None:
            found.append(join_key(draw, *rest))
        elif key == keys["task_id"]:
            found.append(key)
        else:
            raise ValueError(
                f"{reader}: the context encoder reads {key!r}, which is not below the context "
                f"{keys['context']!r}; set_keys(context=...) to the root of what it reads."
            )
    return found


def _mask_below(encoder: TensorDictModuleBase, root: NestedKey, reader: str) -> NestedKey | None:
    """The key of the encoder's mask below the context's root; ``"mask"`` for an encoder without ``mask_key``."""
    if not hasattr(encoder, "mask_key"):
        return "mask"
    mask_key = cast(NestedKey | None, encoder.mask_key)
    if mask_key is None:
        return None
    rest = rest_of_key(mask_key, root)
    if not rest:
        raise ValueError(
            f"{reader}: the context encoder's mask_key is {mask_key!r}, which is not below the context {root!r}; "
            f"give it a key such as {join_key(root, 'mask')!r}."
        )
    return join_key(*rest)
