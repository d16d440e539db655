"""The schedule of a codebook: warm-up, K-means initialization, refreshes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torch.nn import functional

from ctmrl_torchrl.evaluation import figures
from ctmrl_torchrl.methods.parts import Drawing, Part
from ctmrl_torchrl.modules.codebook import Codebook, code_distances, match_codes
from ctmrl_torchrl.objectives.meta import MetaLoss


class CodebookSchedule(Part):
    """Warm-up, K-means initialization and refreshes of the codebook (CTMRL, section "Codebook").

    Progress is measured within the representation phase. After each epoch from ``collect_from`` on, contexts
    of all training tasks are collected; at ``initialize_at`` their K-means centers become the codes; later
    centers are merged by Eq. (1)-(2).

    Args:
        loss (MetaLoss): its representation loss has a ``codebook`` and a ``warm_up`` switch.
        collect (callable): returns a meta-batch of contexts of all training tasks.

    Keyword Args:
        updates (float): length of the representation phase.
        kmeans (bool): false keeps random initial codes and never refreshes.
        epochs (int): number of collections in the whole phase.
        collect_from, initialize_at (float): fractions of the phase.
        refreshes (int): K-means refreshes in the whole phase.
        contexts_per_epoch (int): contexts collected per task and epoch.
        seed (int): seed of the K-means initialization.
    """

    name = "codebook"
    metric_groups = {"perplexity": "codebook", "dead_codes": "codebook"}

    def __init__(
        self,
        loss: MetaLoss,
        collect: Callable[[], TensorDictBase],
        *,
        updates: float,
        kmeans: bool = True,
        epochs: int = 100,
        collect_from: float = 0.2,
        initialize_at: float = 0.3,
        refreshes: int = 20,
        contexts_per_epoch: int = 1,
        seed: int = 0,
    ) -> None:
        self.loss = loss
        self.collect = collect
        self.kmeans = kmeans
        self.collect_from = collect_from
        self.initialize_at = initialize_at
        self.contexts_per_epoch = contexts_per_epoch
        self.seed = seed
        self.collected: list[Tensor] = []
        self.initialized = not kmeans
        self.length = max(updates, 1.0)
        self.epoch_length = max(int(updates / epochs), 1)
        self.refresh_length = max(int(updates / refreshes), 1)

    @property
    def codebook(self) -> Codebook:
        """The scheduled codebook."""
        return self.loss.representation.codebook

    def before_update(self, update: int) -> None:
        """Switch the codebook terms, and initialize or refresh the codes when due."""
        progress = update / self.length
        if not self.kmeans:
            # The terms begin at the same time as with K-means, so that only the codes differ.
            self.loss.representation.warm_up = progress < self.initialize_at
            return
        if progress >= 1.0:
            return
        if progress >= self.collect_from and update % self.epoch_length == 0:
            self.collected.extend(self._contexts())
        if not self.initialized and progress >= self.initialize_at:
            contexts = torch.cat(self.collected or self._contexts())
            self.codebook.initialise_(cosine_kmeans(contexts, self.codebook.num_codes, seed=self.seed))
            self.initialized, self.collected = True, []
        elif self.initialized and update % self.refresh_length == 0 and self.collected:
            contexts = torch.cat(self.collected)
            self.codebook.merge_(cosine_kmeans(contexts, self.codebook.num_codes, seed=self.seed + update))
            self.collected = []
        self.loss.representation.warm_up = not self.initialized

    @torch.no_grad()
    def _contexts(self) -> list[Tensor]:
        key = self.loss.tensor_keys.context
        return [self.loss.encode(self.collect(), key) for _ in range(self.contexts_per_epoch)]

    def candidates(self) -> Tensor:
        """The current codes."""
        return self.codebook.codes.detach()

    def milestones(self) -> dict[str, float]:
        """The update at which the codes begin."""
        return {"codes begin": self.initialize_at * self.length}

    def summary(self) -> dict[str, Any]:
        """Code usage at the end of training."""
        return {
            "codebook": {
                "perplexity": self.codebook.perplexity().item(),
                "dead_codes": int(self.codebook.dead_codes()),
            }
        }

    def draw(self, drawing: Drawing) -> None:
        """Draw the distances between the codes and how many training tasks match each."""
        codes = self.candidates().cpu()
        runs = drawing.runs.get("train", {})
        protocol = min(runs, key=lambda name: (name != "offline", name != "np", name == "none"), default="")
        usage, note = None, ""
        if protocol:
            contexts = runs[protocol]["task_context"][:, :, -1].mean(1).cpu()  # [tasks, d]
            usage = match_codes(contexts, codes)[1].bincount(minlength=len(codes))
            note = f" · bars: {len(contexts)} training tasks by the code of their mean context ({protocol})"
        figures.plot_code_distances(
            code_distances(codes),
            usage,
            drawing.folder / "code_distances.png",
            subtitle=f"{drawing.summary['env']}, method {drawing.summary['method']}{note}",
        )

    def state_dict(self) -> dict[str, Any]:
        """The collected contexts and whether codes are initialized."""
        return {"collected": list(self.collected), "initialized": self.initialized}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        device = self.codebook.codes.device
        self.collected = [contexts.to(device) for contexts in state["collected"]]
        self.initialized = bool(state["initialized"])


def cosine_kmeans(contexts: Tensor, clusters: int, *, seed: int = 0) -> Tensor:
    """Spherical K-means: clusters the normalized contexts and returns each cluster's mean raw context.

    Uses scikit-learn's K-means with k-means++ initialization. If contexts coincide, there may be fewer clusters
    than requested; the rest are filled with random contexts, never with zeros.

    Args:
        contexts (Tensor): ``[n, d]`` with n at least ``clusters``.
        clusters (int): N.

    Raises:
        ValueError: if there are fewer contexts than clusters.
    """
    if contexts.shape[0] < clusters:
        raise ValueError(
            f"K-means needs at least as many contexts as codes, got {contexts.shape[0]} contexts for "
            f"{clusters} codes; use a smaller codebook (representation.codes) or more training tasks."
        )
    from sklearn.cluster import KMeans  # slow to import
    from sklearn.exceptions import ConvergenceWarning

    directions = functional.normalize(contexts, dim=-1).double().cpu().numpy()
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):  # of contexts that coincide
        labels = KMeans(clusters, n_init=cast(Any, 4), random_state=seed % 2**32).fit_predict(directions)
    assignment = functional.one_hot(
        torch.as_tensor(labels, dtype=torch.int64, device=contexts.device), clusters
    )
    assignment = assignment.to(contexts.dtype)
    sizes = assignment.sum(0).unsqueeze(-1)
    drawn = torch.randperm(contexts.shape[0], generator=torch.Generator().manual_seed(seed))[:clusters]
    return torch.where(
        sizes > 0, assignment.mT @ contexts / sizes.clamp_min(1.0), contexts[drawn.to(contexts.device)]
    )
