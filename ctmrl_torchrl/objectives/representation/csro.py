"""CSRO's representation loss: FOCAL's metric loss plus a bound on behavior information in contexts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.objectives.checks import require_shape, require_weights
from ctmrl_torchrl.objectives.representation.checks import by_name
from ctmrl_torchrl.objectives.representation.club import club_bound, posterior_error
from ctmrl_torchrl.objectives.representation.metric import MetricLoss
from ctmrl_torchrl.typed import dispatch


class CSROLoss(MetricLoss):
    """``L_met + L_club``: contexts of different tasks repel each other and carry little behavior information.

    The density model ``behaviour_posterior`` is part of the loss, so that it is saved with it, but no term
    reaches it. A separate optimizer minimizes :meth:`posterior_error`.

    Args:
        behaviour_posterior (TensorDictModule): q(e | s, a); reads observation and action and writes mean
            and variance of a transition's context. See :func:`~ctmrl_torchrl.modules.make_behaviour_posterior`.

    Keyword Args:
        metric_weight (float): weight of FOCAL's term. Defaults to 10.
        club_weight (float): lambda. Defaults to 25; 0 skips the bound.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]`` and ``transition_contexts`` ``[T, L, d]``, with gradient
        - ``task_id`` ``[T]``
        - ``context`` ``[T, L]``: the transitions, with ``observation``, ``action`` and (optional) ``mask``

    Out: ``loss_metric``, ``loss_club``, and the detached ``context_distance`` and ``posterior_error``.

    Gradients:

    ===============  ==============================
    term             reaches
    ===============  ==============================
    ``loss_metric``  contexts (hence the encoder)
    ``loss_club``    per-transition contexts
    ===============  ==============================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry has the wrong shape, or the batch holds a single context.

    Source: CSRO (NeurIPS 2023), as released; the bound in closed form, see
    :func:`~ctmrl_torchrl.objectives.representation.club_bound`.

    Examples:
        >>> from ctmrl_torchrl.modules import make_behaviour_posterior
        >>> loss = CSROLoss(make_behaviour_posterior(observation_dim=3, action_dim=2, context_dim=4))
        >>> batch = {"context": {"observation": torch.randn(5, 7, 3), "action": torch.randn(5, 7, 2)}}
        >>> contexts = torch.randn(5, 7, 4)
        >>> batch |= {"transition_contexts": contexts, "task_context": contexts.mean(1)}
        >>> sorted(loss(TensorDict(batch | {"task_id": torch.arange(5)}, [5])).keys())
        ['context_distance', 'loss_club', 'loss_metric', 'posterior_error']
    """

    curve_titles = {**MetricLoss.curve_titles, "loss_club": "Behavior information in contexts"}

    @dataclass
    class _AcceptedKeys(MetricLoss._AcceptedKeys):
        transition_contexts: NestedKey = "transition_contexts"
        context: NestedKey = "context"
        observation: NestedKey = "observation"
        action: NestedKey = "action"
        mask: NestedKey = "mask"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(
        self,
        behaviour_posterior: TensorDictModuleBase,
        *,
        metric_weight: float = 10.0,
        club_weight: float = 25.0,
        reduction: str = "mean",
    ) -> None:
        super().__init__(metric_weight=metric_weight, reduction=reduction)
        self.behaviour_posterior = behaviour_posterior
        require_weights(type(self).__name__, club_weight=club_weight)
        self.club_weight = club_weight
        self.out_keys = ["loss_metric", "loss_club", "context_distance", "posterior_error"]

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """One draw, whose observations and actions the posterior reads."""
        return {"context": [self.tensor_keys.observation, self.tensor_keys.action]}

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the forward pass reads."""
        keys = self.tensor_keys
        seen = [join_key(keys.context, key) for key in (keys.observation, keys.action)]
        return [keys.task_context, keys.task_id, keys.transition_contexts, *seen]

    def _guess(self, tensordict: TensorDictBase, contexts: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Mean, variance and mask of the posterior of the contexts ``[T, L, d]``."""
        keys, name = self.tensor_keys, type(self).__name__
        batch = read(tensordict, keys.context, name)
        seen = {each: read(batch, getattr(keys, each), name) for each in ("observation", "action")}
        lead = seen["action"].shape[:-1]
        guess = self.behaviour_posterior(TensorDict(by_name(self.behaviour_posterior, keys, seen), lead))
        loc, variance = (guess.get(key) for key in self.behaviour_posterior.out_keys[-2:])
        hint = "one context per transition, with the size of task contexts: encoder.pool=mean."
        what = repr(keys.transition_contexts)
        require_shape(contexts, (*lead, loc.shape[-1]), reader=name, what=what, hint=hint)
        return loc, variance, batch.get(keys.mask, None)

    def posterior_error(self, tensordict: TensorDictBase, transition_contexts: Tensor) -> Tensor:
        """L_q of every task, ``[T]``, which the posterior's optimizer minimizes; reaches only the posterior.

        Args:
            tensordict: the meta-batch ``[T]``. transition_contexts: ``[T, L, d]``.
        """
        loc, variance, mask = self._guess(tensordict, transition_contexts)
        return posterior_error(loc, variance, transition_contexts.detach(), mask)

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute both terms."""
        out, key = super().forward(tensordict), self.tensor_keys.transition_contexts
        contexts = read(tensordict, key, type(self).__name__)
        with torch.no_grad():
            loc, variance, mask = self._guess(tensordict, contexts)
            error = posterior_error(loc, variance, contexts, mask).mean()
        bound = (
            club_bound(loc, variance, contexts, mask) if self.club_weight else torch.zeros_like(loc[:, 0, 0])
        )
        return out.update(
            {"loss_club": self._reduce_loss(self.club_weight * bound), "posterior_error": error}
        )
