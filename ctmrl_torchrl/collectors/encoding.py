"""Encodes collected episodes into task contexts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import rest_of_key
from ctmrl_torchrl.typed import cat_tensordicts


class EvidenceEncoder:
    """Calls a context encoder with collected episodes, with the rows' task ids, or with both.

    Args:
        encoder (TensorDictModule): reads keys below ``evidence_key``, ``task_key`` at the root, or both;
            writes ``context_key`` (or, if it has no such out-key, its last one).

    Keyword Args:
        context_key (NestedKey): key of the context. evidence_key (NestedKey): root of the
            transitions ``[n, L, *]``. task_key (NestedKey): the row's task id, ``[n]``.

    Attributes:
        evidence_keys (list of tuple): keys read from an episode, relative to ``evidence_key``.
        reads_task (bool): whether the encoder reads the task id.
        pools_codes (bool): whether the encoder encodes every transition by itself and pools the codes, so that
            the codes of an episode can be reused when others are added.

    Raises:
        ValueError: if the encoder reads other keys.

    Examples:
        >>> from ctmrl_torchrl.modules import make_context_encoder
        >>> features = {("context", "observation"): 2, ("context", "next", "terminated"): 1}
        >>> encoder = make_context_encoder(feature_dims=features, context_dim=4)
        >>> keys = {"context_key": "task_context", "evidence_key": "context", "task_key": "task_id"}
        >>> EvidenceEncoder(encoder, **keys).evidence_keys
        [('observation',), ('next', 'terminated')]
    """

    def __init__(
        self,
        encoder: TensorDictModuleBase,
        *,
        context_key: NestedKey,
        evidence_key: NestedKey,
        task_key: NestedKey,
    ) -> None:
        self.encoder = encoder
        self.evidence_key = evidence_key
        self.task_key = task_key
        names = encoder.out_keys
        self._out_key = context_key if context_key in names else names[-1]
        self.reads_task = task_key in encoder.in_keys
        read = [key for key in encoder.in_keys if key != task_key]
        hooked = bool(encoder._forward_hooks or encoder._forward_pre_hooks)
        self.pools_codes = getattr(encoder, "encodes_alone", False) and not self.reads_task and not hooked
        self.evidence_keys = [_below(evidence_key, task_key, key) for key in read]

    def encode(self, episodes: Sequence[TensorDictBase], task_ids: Tensor) -> Tensor:
        """Task contexts ``[n, d]`` of episodes ``[n, H]``, pooled together."""
        evidence = cat_tensordicts(list(episodes), 1)
        view = TensorDict(
            {self.evidence_key: evidence, self.task_key: task_ids}, batch_size=evidence.batch_size[:1]
        )
        return self.encoder(view).get(self._out_key)

    def codes(self, episode: TensorDictBase, task_ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """Codes ``[n, H, d]`` of one episode's transitions, and their mask; see :attr:`pools_codes`."""
        encoder: Any = self.encoder
        view = TensorDict(
            {self.evidence_key: episode, self.task_key: task_ids}, batch_size=episode.batch_size[:1]
        )
        features = encoder.features(view)
        return encoder.transition_network(features), encoder.mask(view, features)

    def pool(self, codes: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
        """Task contexts ``[n, d]`` of episodes with these codes, pooled together."""
        encoder: Any = self.encoder
        masks = [mask for _, mask in codes if mask is not None]
        return encoder.pooled(
            torch.cat([code for code, _ in codes], 1), torch.cat(masks, 1) if masks else None
        )

    def encode_task(self, task_ids: Tensor) -> Tensor:
        """Task contexts ``[n, d]`` from only the task ids ``[n]``.

        Raises:
            ValueError: if the encoder reads evidence, or does not read the task id.
        """
        if self.evidence_keys or not self.reads_task:
            raise ValueError(
                f"The context encoder {type(self.encoder).__name__} reads {self.encoder.in_keys}, so it "
                f"cannot compute a context from {self.task_key!r} alone, which protocol 'told' requires. "
                "Choose a protocol that collects episodes, or an encoder whose only in_key is the task id."
            )
        return self.encoder(TensorDict({self.task_key: task_ids}, task_ids.shape)).get(self._out_key)


def _below(root: NestedKey, task_key: NestedKey, key: NestedKey) -> tuple[str, ...]:
    """The part of ``key`` below ``root``."""
    rest = rest_of_key(key, root)
    if not rest:
        raise ValueError(
            f"MetaTestCollector: the context encoder reads {key!r}, which is not below {root!r}; set "
            "evidence_key= to the root of its in_keys (entries of episodes, one tensor per feature). At the "
            f"root of its input it can only read {task_key!r}, the task id (task_key=)."
        )
    return rest
