"""What changes in the course of training, as functions of the update's number alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from sklearn.cluster import KMeans
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.modules.codebook import Codebook
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.training.config import OptimiserConfig, ScheduleConfig


def cosine_fall(progress: float, start: float, end: float, final: float) -> float:
    """1 before ``start``, ``final`` after ``end``, half a cosine between."""
    if progress <= start:
        return 1.0
    if progress >= end:
        return final
    share = (progress - start) / (end - start)
    return final + (1.0 - final) * 0.5 * (1.0 + math.cos(math.pi * share))


def beginnings(schedule: ScheduleConfig, *, codes: bool) -> dict[str, float]:
    """Updates at which a part of the training begins or ends, by name; ``codes``: if there are any."""
    encoder_end = schedule.updates * schedule.representation_end
    moments = {"codes begin": schedule.kmeans_at * encoder_end} if codes else {}
    moments |= {"policy begins": schedule.policy_start * schedule.updates, "encoder is fixed": encoder_end}
    return {name: moment for name, moment in moments.items() if 0 < moment < schedule.updates}


class LearningRates:
    """Learning rates of the representation and the policy group, and which of the two learns at all.

    Args:
        optimiser (torch.optim.Optimizer): with two parameter groups named ``"representation"`` and
            ``"policy"``.
        loss (MetaLoss): whose ``representation_frozen`` and ``policy_frozen`` are set.
    """

    def __init__(
        self,
        optimiser: torch.optim.Optimizer,
        loss: MetaLoss,
        rates: OptimiserConfig,
        schedule: ScheduleConfig,
    ) -> None:
        self.optimiser = optimiser
        self.loss = loss
        self.rates = rates
        self.schedule = schedule

    def before_update(self, update: int) -> None:
        """Set the rates for update number ``update`` (from 0)."""
        schedule, rates = self.schedule, self.rates
        progress = update / schedule.updates
        end = schedule.representation_end
        # Looked up anew: a resumed optimiser has other group dictionaries than before.
        groups = {group["name"]: group for group in self.optimiser.param_groups}
        _set_rate(groups["representation"], rates.representation_rate * cosine_fall(progress, 0.0, end, 0.0))
        policy_share = cosine_fall(progress, rates.policy_decay_from, 1.0, rates.policy_final)
        _set_rate(groups["policy"], rates.policy_rate * policy_share)
        self.loss.representation_frozen = progress >= end
        self.loss.policy_frozen = progress < schedule.policy_start


def _set_rate(group: dict[str, Any], rate: float) -> None:
    """In place where the rate is a tensor: a captured update reads it from where it was."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class CodebookSchedule:
    """Warm-up, K-means initialisation and refreshes of the codebook (CTMRL, section "Codebook").

    Progress is measured within the representation phase. After each epoch from ``kmeans_from`` on, contexts
    of all training tasks are collected; at ``kmeans_at`` their K-means centres become the codes; later
    centres are merged by Eq. (1)-(2).

    Args:
        loss (MetaLoss): its representation loss has a ``codebook`` and a ``warm_up`` switch.
        collect (callable): returns a meta-batch of contexts of all training tasks.
        seed (int): of K-means' seeding.
    """

    def __init__(
        self,
        loss: MetaLoss,
        collect: Callable[[], TensorDictBase],
        schedule: ScheduleConfig,
        *,
        seed: int = 0,
    ) -> None:
        self.loss = loss
        self.collect = collect
        self.schedule = schedule
        self.seed = seed
        self.collected: list[Tensor] = []
        self.initialised = not schedule.kmeans
        length = schedule.updates * schedule.representation_end
        self.length = max(length, 1.0)
        self.epoch_length = max(int(length / schedule.epochs), 1)
        self.refresh_length = max(int(length / schedule.refreshes), 1)

    @property
    def codebook(self) -> Codebook:
        """The codebook that is scheduled."""
        return self.loss.representation.codebook

    def before_update(self, update: int) -> None:
        """Decide whether the codebook terms are on, and initialise or refresh the codes when it is time."""
        schedule, progress = self.schedule, update / self.length
        if not schedule.kmeans:
            # The terms begin when they would with K-means, so that the two differ in the codes alone.
            self.loss.representation.warm_up = progress < schedule.kmeans_at
            return
        if progress >= 1.0:
            return
        if progress >= schedule.kmeans_from and update % self.epoch_length == 0:
            self.collected.extend(self._contexts())
        if not self.initialised and progress >= schedule.kmeans_at:
            contexts = torch.cat(self.collected or self._contexts())
            self.codebook.initialise_(cosine_kmeans(contexts, self.codebook.num_codes, seed=self.seed))
            self.initialised, self.collected = True, []
        elif self.initialised and update % self.refresh_length == 0 and self.collected:
            contexts = torch.cat(self.collected)
            self.codebook.merge_(cosine_kmeans(contexts, self.codebook.num_codes, seed=self.seed + update))
            self.collected = []
        self.loss.representation.warm_up = not self.initialised

    @torch.no_grad()
    def _contexts(self) -> list[Tensor]:
        device, key = self.codebook.codes.device, self.loss.tensor_keys.context
        return [
            self.loss.encode(self.collect().to(device), key) for _ in range(self.schedule.contexts_per_epoch)
        ]

    def state_dict(self) -> dict[str, object]:
        """What a resumed run needs: contexts collected so far, and whether there are codes yet."""
        return {"collected": list(self.collected), "initialised": self.initialised}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`state_dict`."""
        device = self.codebook.codes.device
        self.collected = [contexts.to(device) for contexts in state["collected"]]
        self.initialised = bool(state["initialised"])


def cosine_kmeans(contexts: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    """K-means on directions: cluster the normalised contexts, return each cluster's mean raw context.

    scikit-learn's K-means with k-means++ seeding. Where contexts coincide, fewer clusters than asked for may
    come out; the rest are seeded with contexts drawn at random, never with zeros.

    Args:
        contexts (Tensor): ``[n, d]``, n at least ``clusters``.
        clusters (int): N.

    Raises:
        ValueError: if there are fewer contexts than clusters.
    """
    if contexts.shape[0] < clusters:
        raise ValueError(
            f"K-means needs at least as many contexts as codes, got {contexts.shape[0]} contexts for "
            f"{clusters} codes; use a smaller codebook (representation.codes) or more training tasks."
        )
    directions = functional.normalize(contexts, dim=-1).double().cpu().numpy()
    labels = KMeans(clusters, n_init=4, random_state=seed % 2**32).fit_predict(directions)
    assignment = functional.one_hot(
        torch.as_tensor(labels, dtype=torch.int64, device=contexts.device), clusters
    )
    assignment = assignment.to(contexts.dtype)
    sizes = assignment.sum(0).unsqueeze(-1)
    drawn = torch.randperm(contexts.shape[0], generator=torch.Generator().manual_seed(seed))[:clusters]
    return torch.where(
        sizes > 0, assignment.mT @ contexts / sizes.clamp_min(1.0), contexts[drawn.to(contexts.device)]
    )


def total_loss(losses: TensorDictBase) -> Tensor:
    """Sum of the outputs whose name starts with ``loss_``."""
    return sum(value for name, value in losses.items() if name.startswith("loss_"))
