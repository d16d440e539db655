"""The context encoder e, which maps a set of transitions to one task-specific context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor, nn
from torchrl.modules import MLP

from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.modules.masked import masked_mean
from ctmrl_torchrl.modules.pooling import AttentionPool, NoisySquash, UnitSphere
from ctmrl_torchrl.modules.standardise import Standardise, Statistics

Pooling = Literal["mean", "mean_mlp", "attention"]
Last = Literal["tanh", "linear", "unit", "noisy"]


class ContextEncoder(TensorDictModuleBase):
    """Encodes every transition of a context, averages the codes, and optionally applies a head to the average.

    ``c_spe = head(mean_t e(h_t))``. Without a head this is the paper's task-specific context (CTMRL, section
    "CQ-VAE"). The mean excludes padding.

    Args:
        transition_network (nn.Module): maps the concatenated features ``[*, L, F]`` to ``[*, L, d]``.

    Keyword Args:
        in_keys (sequence of NestedKey): the transition features, concatenated in this order.
        out_key (NestedKey): key of the context. Defaults to ``"task_context"``.
        mask_key (NestedKey or None): boolean ``[*, L]``, ``True`` for valid transitions; a batch without it
            has no padding. By default (``"auto"``) the entry ``"mask"`` next to the first
            of ``in_keys``: ``("context", "mask")`` for ``("context", "observation")`` and for
            ``("context", "next", "reward")``.
        head (nn.Module, optional): layers after the mean, ``[*, d] -> [*, d']``.
        transition_key (NestedKey, optional): key of the per-transition contexts; by default they are not
            written.
        pooling (nn.Module, optional): ``([*, L, d], mask or None) -> [*, d]`` to use instead of the mean, e.g.
            :class:`~ctmrl_torchrl.modules.pooling.AttentionPool`.

    Keys:
        - reads ``in_keys``, each ``[*, L, features]``, and ``mask_key`` if present
        - writes ``out_key``, ``[*, d]``, and ``transition_key``, ``[*, L, d]``, if set


    Raises:
        ValueError: if the context holds no transitions (L = 0); if features or mask differ in ``[*, L]``.
        KeyError: if one of ``in_keys`` is missing.

    Examples:
        >>> import torch
        >>> from tensordict import TensorDict
        >>> encoder = ContextEncoder(nn.Linear(2, 3), in_keys=[("context", "observation")])
        >>> td = TensorDict({"context": TensorDict({"observation": torch.randn(4, 7, 2)}, [4, 7])}, [4])
        >>> encoder(td)["task_context"].shape
        torch.Size([4, 3])
    """

    in_keys: list[NestedKey]
    out_keys: list[NestedKey]

    def __init__(
        self,
        transition_network: nn.Module,
        *,
        in_keys: Sequence[NestedKey],
        out_key: NestedKey = "task_context",
        mask_key: NestedKey | Literal["auto"] | None = "auto",
        head: nn.Module | None = None,
        transition_key: NestedKey | None = None,
        pooling: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_keys = list(in_keys)
        self.out_keys = [out_key] if transition_key is None else [transition_key, out_key]
        if mask_key == "auto":
            first = self.in_keys[0]
            path = first[:-1] if isinstance(first, tuple) else ()
            path = path[: path.index("next")] if "next" in path else path
            mask_key = join_key(*path, "mask")
        self.mask_key = mask_key
        self.transition_network = transition_network
        self.head = head if head is not None else nn.Identity()
        self.pooling = pooling

    def pool(self, encoded: Tensor, mask: Tensor | None) -> Tensor:
        """Mean (or ``pooling``) of the codes ``[*, L, d]`` of valid transitions."""
        if self.pooling is not None:
            return self.pooling(encoded, mask)
        return masked_mean(encoded, mask, -2)

    def pooled(self, encoded: Tensor, mask: Tensor | None) -> Tensor:
        """Task contexts ``[*, d]`` from per-transition contexts ``[*, L, d]``."""
        return self.head(self.pool(encoded, mask))

    def _check_shapes(self, entries: list[Tensor]) -> None:
        lead = entries[0].shape[:-1]
        for key, entry in zip(self.in_keys, entries, strict=True):
            if entry.ndim < 2 or entry.shape[:-1] != lead:
                raise ValueError(
                    f"{type(self).__name__}: {key!r} has shape {list(entry.shape)}, expected "
                    f"{list(lead)} (as for {self.in_keys[0]!r}) and its size, so at least [L, size]; "
                    "unsqueeze(-1) makes a scalar feature [*, L, 1]."
                )

    def _check_type(self, entries: list[Tensor], dtype: torch.dtype) -> None:
        """Reject double precision for parameters of another type, or the reverse, with the key."""
        own = next((each.dtype for each in self.transition_network.parameters()), dtype)
        if dtype == own or torch.float64 not in (dtype, own):  # autocast may mix the other types
            return
        key, entry = next(
            each for each in zip(self.in_keys, entries, strict=True) if own != each[1].dtype != torch.bool
        )
        raise ValueError(
            f"{type(self).__name__}: {key!r} has the dtype {entry.dtype}, expected {own}, as its parameters; "
            f"convert the input with .to({own}), or the networks with loss.to({dtype})."
        )

    @property
    def encodes_alone(self) -> bool:
        """Whether the code of a transition is known to depend on it alone, and not on random numbers.

        True for networks of the layers of :func:`make_context_encoder`. Layers of other types may compare
        transitions.
        """
        return type(self) is ContextEncoder and all(
            type(module) in _EACH_ALONE for module in self.transition_network.modules()
        )

    def features(self, tensordict: TensorDictBase) -> Tensor:
        """The features ``[*, L, F]`` of all transitions, concatenated."""
        entries = [read(tensordict, key, str(type(self).__name__)) for key in self.in_keys]
        self._check_shapes(entries)
        # Flags such as ("context", "next", "terminated") are features too.
        numbers = next(
            (entry.dtype for entry in entries if entry.dtype != torch.bool), torch.get_default_dtype()
        )
        features = torch.cat(
            [entry.to(numbers) if entry.dtype == torch.bool else entry for entry in entries], -1
        )
        self._check_type(entries, features.dtype)
        if features.shape[-2] == 0:
            raise ValueError(
                f"{type(self).__name__}: the context {self.in_keys[0]!r} has length 0; give it at least one "
                "transition, or use the prior context (zeros) instead of the encoder."
            )
        return features

    def mask(self, tensordict: TensorDictBase, features: Tensor) -> Tensor | None:
        """The mask ``[*, L]`` of the transitions with these features, or None if all are valid."""
        mask = None if self.mask_key is None else tensordict.get(self.mask_key, None)
        if mask is not None and mask.shape != features.shape[:-1]:
            raise ValueError(
                f"{type(self).__name__}: the mask {self.mask_key!r} has shape {list(mask.shape)}, expected "
                f"{list(features.shape[:-1])}: one flag per transition (squeeze(-1) drops a last dimension)."
            )
        return mask

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Write the task-specific context of every row."""
        features = self.features(tensordict)
        mask = self.mask(tensordict, features)
        encoded = self.transition_network(features)
        for transition_key in self.out_keys[:-1]:
            tensordict.set(transition_key, encoded)
        return tensordict.set(self.out_keys[-1], self.pooled(encoded, mask))


class RelativeFeatures(nn.Module):
    """Replaces one slice of the features with its difference from another.

    A next observation is close to the observation, and only the change distinguishes tasks.

    Args:
        target (slice): the features to replace. reference (slice): the features to subtract, of equal length.

    Examples:
        >>> import torch
        >>> RelativeFeatures(slice(1, 2), slice(0, 1))(torch.tensor([1.0, 3.0]))
        tensor([1., 2.])
    """

    def __init__(self, target: slice, reference: slice) -> None:
        super().__init__()
        self.target, self.reference = target, reference

    def forward(self, features: Tensor) -> Tensor:
        """Features ``[*, F]`` with the target slice made relative."""
        change = features[..., self.target] - features[..., self.reference]
        return torch.cat([features[..., : self.target.start], change, features[..., self.target.stop :]], -1)


#: layers whose output for a transition depends on that transition alone
_EACH_ALONE = (
    nn.Sequential,
    nn.Linear,
    nn.ReLU,
    nn.Tanh,
    nn.Identity,
    MLP,
    RelativeFeatures,
    Standardise,
    UnitSphere,
)


def make_context_encoder(
    *,
    feature_dims: dict[NestedKey, int],
    context_dim: int = 20,
    hidden: Sequence[int] = (200, 200, 200),
    pool: Pooling = "mean",
    head_hidden: Sequence[int] = (200,),
    last: Last = "tanh",
    feature_statistics: Statistics | None = None,
    relative: tuple[slice, slice] | None = None,
    **keys: Any,
) -> ContextEncoder:
    """Build FOCAL's encoder: a ReLU network per transition, tanh output, mean over transitions.

    Args:
        feature_dims (dict): size of every input key, in order, e.g. ``{("context", "observation"): 2, ...}``.
        context_dim (int): latent size d.
        hidden (sequence of int): hidden layers of the per-transition network.
        pool: ``"mean"`` is the paper's aggregation; ``"mean_mlp"`` adds layers after the mean;
            ``"attention"`` is a weighted mean (CORRO).
        head_hidden (sequence of int): widths of those layers.
        last: output activation of the per-transition network: ``"tanh"``, ``"linear"`` (none), ``"unit"``
            (length 1, CORRO) or ``"noisy"`` (tanh of a learned Gaussian, UNICORN). Layers after the mean end
            with tanh.
        feature_statistics (Statistics, optional): mean and standard deviation of the concatenated
            features, to standardize them.
        relative (pair of slice, optional): replace the first slice of the features with its difference from
            the second before standardizing, e.g. the next observation with its change.
        keys: ``out_key``, ``mask_key`` and ``transition_key`` of :class:`ContextEncoder`.

    Raises:
        ValueError: for an unknown ``pool`` or ``last``.

    Examples:
        >>> features = {("context", "observation"): 2, ("context", "next", "reward"): 1}
        >>> encoder = make_context_encoder(feature_dims=features, context_dim=4, pool="mean_mlp")
        >>> encoder.in_keys, encoder.out_keys
        ([('context', 'observation'), ('context', 'next', 'reward')], ['task_context'])
    """
    features = sum(feature_dims.values())
    scaling: list[nn.Module] = [] if relative is None else [RelativeFeatures(*relative)]
    if feature_statistics is not None:
        scaling.append(Standardise(*feature_statistics))
    ends = {
        "tanh": nn.Tanh,
        "linear": nn.Identity,
        "unit": UnitSphere,
        "noisy": lambda: NoisySquash(context_dim),
    }
    if last not in ends:
        raise ValueError(f"last={last!r} is unknown; choose one of {', '.join(map(repr, ends))}.")
    pooling = AttentionPool(context_dim) if pool == "attention" else None
    if pool in ("mean", "attention"):
        width, head = context_dim, None
        end = ends[last]()
    elif pool == "mean_mlp":
        # The mean of wide features retains more information than the mean of d outputs.
        width = hidden[-1]
        head = nn.Sequential(
            MLP(
                in_features=width,
                out_features=context_dim,
                num_cells=list(head_hidden),
                activation_class=nn.ReLU,
            ),
            nn.Tanh(),
        )
        end = nn.ReLU()
    else:
        raise ValueError(
            f"pool={pool!r} is unknown; choose 'mean' (the paper's), 'mean_mlp' (layers after it) or "
            "'attention' (a weighted mean)."
        )
    cells = list(hidden[:-1]) if pool == "mean_mlp" else list(hidden)
    network = MLP(in_features=features, out_features=width, num_cells=cells, activation_class=nn.ReLU)
    return ContextEncoder(
        nn.Sequential(*scaling, network, end),
        in_keys=list(feature_dims),
        head=head,
        pooling=pooling,
        **keys,
    )
