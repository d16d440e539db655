"""Distance metric learning on task contexts: the loss of FOCAL, which later methods also use."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives.checks import known_reduction, require_shape, require_weights
from ctmrl_torchrl.objectives.representation.base import RepresentationLoss
from ctmrl_torchrl.typed import dispatch

#: keeps the square root's gradient and quotients without pairs finite
_SMALL = 1e-3


def metric_loss(task_context: Tensor, task_id: Tensor | None = None) -> Tensor:
    """FOCAL's L_dml: contexts of one task attract, those of different tasks repel each other.

    With ``D`` the mean squared difference of two contexts, pairs of one task cost ``sqrt(D + 0.001)`` and
    pairs of different tasks ``1 / (D + 0.1)``, each averaged over its pairs. If tasks are sampled
    without replacement there are no pairs of the first kind, and contexts only repel each other.

    Args:
        task_context (Tensor): ``[T, d]``; receives gradient.
        task_id (Tensor, optional): ``[T]``; if None, all rows are different tasks.

    Returns:
        ``[T]``: the contribution of each context; the mean is the loss.

    Source: FOCAL (Li, Yang, Luo; ICLR 2021), equation of the distance metric loss, as released.

    Examples:
        >>> contexts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # D = 1, one pair
        >>> round(metric_loss(contexts).mean().item() * (1 + 1e-3), 4) == round(1 / 1.1, 4)
        True
    """
    tasks = task_context.shape[0]
    distance = (task_context.unsqueeze(0) - task_context.unsqueeze(1)).square().mean(-1)
    other = ~torch.eye(tasks, dtype=torch.bool, device=task_context.device)
    same = torch.zeros_like(other) if task_id is None else task_id.unsqueeze(0) == task_id.unsqueeze(1)
    total = distance.new_zeros(tasks)
    for pairs, cost in (
        (same & other, (distance + _SMALL).sqrt()),
        (~same & other, (distance + 100 * _SMALL).reciprocal()),
    ):
        # Every pair occurs twice, once from either side.
        total = total + (cost * pairs).sum(-1) / (pairs.sum() + 2 * _SMALL)
    return total * tasks


class MetricLoss(RepresentationLoss):
    """FOCAL's representation loss: the distance metric term alone; see :func:`metric_loss`.

    Keyword Args:
        metric_weight (float): weight of the term. Defaults to 1.
        reduction (str): ``"mean"``, ``"sum"`` or ``"none"`` over tasks.

    Keys (see ``set_keys``):
        - ``task_context`` ``[T, d]``, with gradient
        - ``task_id`` ``[T]``: rows of one task attract each other

    Out: ``loss_metric`` and the detached ``context_distance``, the mean distance between contexts.

    Gradients:

    ===============  ==============================
    term             reaches
    ===============  ==============================
    ``loss_metric``  contexts (hence the encoder)
    ===============  ==============================

    Raises:
        KeyError: if an entry is missing.
        ValueError: if an entry has the wrong shape, or the batch holds a single context.

    Examples:
        >>> loss = MetricLoss()
        >>> batch = {"task_context": torch.randn(5, 4), "task_id": torch.tensor([0, 0, 1, 2, 3])}
        >>> sorted(loss(TensorDict(batch, [5])).keys())
        ['context_distance', 'loss_metric']
    """

    curve_titles = {"loss_metric": "Metric loss (tasks apart)"}

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"
        task_id: NestedKey = "task_id"

    default_keys = _AcceptedKeys
    tensor_keys: _AcceptedKeys

    def __init__(self, *, metric_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__()
        require_weights(type(self).__name__, metric_weight=metric_weight)
        self.metric_weight = metric_weight
        self.reduction = known_reduction(reduction, type(self).__name__)
        self.out_keys = ["loss_metric", "context_distance"]

    @property
    def in_keys(self) -> list[NestedKey]:
        """Keys that the forward pass reads."""
        return [self.tensor_keys.task_context, self.tensor_keys.task_id]

    @dispatch
    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute the term."""
        return self._distances(tensordict)

    def _distances(self, tensordict: TensorDictBase) -> TensorDictBase:
        """The metric term and the mean distance between contexts."""
        keys, name = self.tensor_keys, type(self).__name__
        context, task_id = (read(tensordict, key, name) for key in (keys.task_context, keys.task_id))
        hint = "one context per task."
        require_shape(context, ("T", "d"), reader=name, what=repr(keys.task_context), hint=hint)
        hint = "one id per context."
        require_shape(task_id, context.shape[:1], reader=name, what=repr(keys.task_id), hint=hint)
        if context.shape[0] < 2:
            raise ValueError(f"{name}: the batch holds one context, but distances need at least two.")
        loss = self.metric_weight * metric_loss(context, task_id)
        spread = context.detach().var(0, correction=1).mean().mul(2)
        return TensorDict({"loss_metric": self._reduce_loss(loss), "context_distance": spread}, [])
