"""ANOLE's representation loss: a reward model trained with preferences between episode fragments."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.modules.draws import uniform
from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.objectives.checks import known_reduction, require_shape, require_weights
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.objectives.representation.checks import by_name
from ctmrl_torchrl.typed import dispatch


def preference_error(first: Tensor, second: Tensor, first_better: Tensor) -> Tensor:
    """ANOLE's L_pref before its weight of 10: Bradley-Terry likelihood of the better fragment.

    Summed rewards can be as large as a fragment is long (64). The logit is therefore their difference, which
    avoids the exponential of either sum.

    Args:
        first, second (Tensor): ``[T]``, predicted rewards of the fragments, summed; receive gradient.
        first_better (Tensor): ``[T]`` boolean, whether the first fragment's true return is at least as large.

    Returns:
        ``[T]``.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> preference_error(torch.zeros(1), torch.zeros(1), torch.tensor([True])).exp()
        tensor([2.])
    """
    return functional.binary_cross_entropy_with_logits(
        first - second, first_better.to(first.dtype), reduction="none"
    )


def table_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """ANOLE's L_kl before its weight of 0.1: KL divergence of the tasks' Gaussians from a standard normal.

    Args:
        mean, log_std (Tensor): ``[T, d]``, as returned by ``TaskTable.lookup``.

    Returns:
        ``[T]``, means over dimensions (PEARL uses sums).

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> table_divergence(torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2))
        tensor([1.])
    """
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 2.0 * log_std - 1.0).mean(-1)


class PreferenceLoss(RepresentationLoss):
    """L = w1 L_pref + w2 L_kl: preferences between two fragments, and a prior on the tasks' Gaussians.

    One fragment of consecutive steps comes from each of the two context draws. If a draw is a single episode,
    fragments do not cross episode boundaries. Rewards are only labels; the model never receives them.

    Args:
        reward (TensorDictModule): reads transitions and ``task_context``; its last out-key is the reward
            ``[*, 1]``. See :func:`~ctmrl_torchrl.modules.decoders.make_preference_reward`.

    Keyword Args:
        preference_weight, divergence_weight (float): w1 and w2. Published: 10 and 0.1.
        fragment (int): maximum length of a fragment in steps. Published: 64.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]``, with gradient
        - ``task_context_mean`` and ``task_context_log_std`` ``[T, d]`` (optional, with gradient): written by a
          task table. With other encoders the second term is 0
        - ``context`` and ``context_positive`` ``[T, L]``; inside them ``observation``, ``action``,
          ``next_observation`` (if the model reads them), ``reward`` and (optional) ``mask``

    Out: ``loss_preference``, ``loss_divergence`` and the detached ``preference_accuracy``.

    Gradients:

    ===================  ============================================
    term                 reaches
    ===================  ============================================
    ``loss_preference``  contexts (hence the table), the reward model
    ``loss_divergence``  the table
    ===================  ============================================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry has the wrong shape.

    Examples:
        >>> from ctmrl_torchrl.modules.decoders import make_preference_reward
        >>> loss = PreferenceLoss(make_preference_reward(observation_dim=3, action_dim=2, context_dim=4))
        >>> def episode():
        ...     steps = {"observation": torch.randn(5, 7, 3), "action": torch.rand(5, 7, 2)}
        ...     return TensorDict(steps | {"next": {"reward": torch.randn(5, 7, 1)}}, [5, 7])
        >>> batch = {"context": episode(), "context_positive": episode(), "task_context": torch.randn(5, 4)}
        >>> sorted(loss(TensorDict(batch, [5])).keys())
        ['loss_divergence', 'loss_preference', 'preference_accuracy']
    """

    curve_titles = {"loss_divergence": "Divergence from the prior"}
    main_curve = "loss_preference"

    @dataclass
    class _AcceptedKeys:
        context: NestedKey = "context"
        context_positive: NestedKey = "context_positive"
        task_context: NestedKey = "task_context"
        task_context_mean: NestedKey = "task_context_mean"
        task_context_log_std: NestedKey = "task_context_log_std"
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        reward: NestedKey = ("next", "reward")
        next_observation: NestedKey = ("next", "observation")
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        reward: TensorDictModuleBase,
        *,
        preference_weight: float = 10.0,
        divergence_weight: float = 0.1,
        fragment: int = 64,
        reduction: str = "mean",
    ) -> None:
        super().__init__()
        self.reduction = known_reduction(reduction, type(self).__name__)
        self.reward = reward
        require_weights(
            type(self).__name__, preference_weight=preference_weight, divergence_weight=divergence_weight
        )
        self.preference_weight = preference_weight
        self.divergence_weight = divergence_weight
        self.fragment = fragment
        self.out_keys = ["loss_preference", "loss_divergence", "preference_accuracy"]

    @property
    def reward_predictor(self) -> TensorDictModuleBase:
        """The reward model."""
        return self.reward

    @property
    def _names(self) -> list[str]:
        """The names of the keys that the model reads."""
        return [
            *("observation", "action", "next_observation")[: len(self.reward.in_keys) - 1],
            "task_context",
        ]

    @property
    def _features(self) -> list[NestedKey]:
        """Transition keys that the model reads."""
        return [getattr(self.tensor_keys, name) for name in self._names[:-1]]

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """Both draws, with the model's in-keys and the rewards."""
        leaves = [*self._features, self.tensor_keys.reward]
        return {"context": leaves, "context_positive": leaves}

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the forward pass reads."""
        keys = self.tensor_keys
        draws = {"context": keys.context, "context_positive": keys.context_positive}
        leaves = [
            join_key(draws[draw], leaf) for draw, leaves in self.context_keys.items() for leaf in leaves
        ]
        return [keys.task_context, *leaves]

    def _compared(self, draw: TensorDictBase, context: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted and true return ``[T]`` of a random fragment of each task's draw."""
        keys, name = self.tensor_keys, type(self).__name__
        values = [read(draw, key, name) for key in (*self._features, keys.reward)]
        lead = (len(context), *values[0].shape[1:2])
        for key, value in zip((*self._features, keys.reward), values, strict=True):
            size = 1 if key == keys.reward else "features"
            require_shape(value, (*lead, size), reader=name, what=repr(key), hint="transitions [T, L].")
        mask = draw.get(keys.mask, None)
        mask = torch.ones(lead, dtype=torch.bool, device=context.device) if mask is None else mask
        steps = min(self.fragment, lead[1])
        order = (~mask).to(torch.int8).argsort(dim=-1, stable=True)  # valid steps come first
        used = mask.sum(-1, keepdim=True)
        share = uniform((lead[0], 1), None, context.device)
        start = (share * (used - steps + 1).clamp_min(1)).long()
        place = start + torch.arange(steps, device=context.device)
        counts = (place < used).unsqueeze(-1)
        rows = order.gather(1, place.clamp_max(lead[1] - 1)).unsqueeze(-1)
        *features, reward = (value.gather(1, rows.expand(-1, -1, value.shape[-1])) for value in values)
        repeated = context.unsqueeze(1).expand(-1, steps, -1)
        inputs = by_name(self.reward, keys, dict(zip(self._names, [*features, repeated], strict=True)))
        predicted = self.reward(TensorDict(inputs, [lead[0], steps])).get(self.reward.out_keys[-1])
        first, second = (value.masked_fill(~counts, 0.0).sum((1, 2)) for value in (predicted, reward))
        return first, second

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute both terms."""
        keys, name = self.tensor_keys, type(self).__name__
        context = read(tensordict, keys.task_context, name)
        require_shape(context, ("T", "d"), reader=name, what=repr(keys.task_context), hint="one per task.")
        draws = (read(tensordict, key, name) for key in (keys.context, keys.context_positive))
        (first, true_first), (second, true_second) = (self._compared(draw, context) for draw in draws)
        better = true_first >= true_second
        preference = self.preference_weight * preference_error(first, second, better)
        mean = tensordict.get(keys.task_context_mean, None)
        divergence = context.new_zeros((len(context),))
        if mean is not None and self.divergence_weight:
            log_std = read(tensordict, keys.task_context_log_std, name)
            divergence = self.divergence_weight * table_divergence(mean, log_std)
        out = {
            "loss_preference": self._reduce_loss(preference),
            "loss_divergence": self._reduce_loss(divergence),
            "preference_accuracy": ((first > second) == better).to(context.dtype).mean(),
        }
        return TensorDict(out, [])
