"""State of IDAQ's adaptation: the next context to try and the accepted episodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ctmrl_torchrl.modules.draws import uniform


class DiverseCandidates:
    """Proposes contexts that are far from those already tried, separately for every test task.

    A proposal is the best of ``draws`` random candidates: the one with the largest mean squared difference to
    the nearest context tried so far. These distances are updated incrementally, so a proposal costs one distance
    per candidate.

    Args:
        candidates (Tensor): ``[N, d]``, such as one stored context per training task.
        tasks (int): test tasks that adapt in parallel.

    Keyword Args:
        draws (int): released 5, and 20 on sparse point robots.
        generator (torch.Generator, optional): samples the candidates.

    Source: IDAQ (ICML 2023), the reference stage, as released.

    Examples:
        >>> line = torch.arange(4.0).unsqueeze(-1)
        >>> proposals = DiverseCandidates(line, tasks=1, draws=100)
        >>> tried = [proposals.propose().item() for _ in range(3)]
        >>> len(set(tried))
        3
    """

    def __init__(
        self,
        candidates: Tensor,
        tasks: int,
        *,
        draws: int = 5,
        generator: torch.Generator | None = None,
    ) -> None:
        self.candidates, self.draws, self.generator = candidates, draws, generator
        self.distance = candidates.new_full((tasks, candidates.shape[0]), torch.inf)

    def propose(self) -> Tensor:
        """The contexts to try next, ``[tasks, d]``, which are then marked as tried."""
        tasks, count = self.distance.shape
        share = uniform((tasks, self.draws), self.generator, self.distance.device)
        drawn = (share * count).long()
        place = self.distance.gather(-1, drawn).argmax(-1, keepdim=True)
        chosen = self.candidates[drawn.gather(-1, place).squeeze(-1)]
        away = (self.candidates - chosen.unsqueeze(1)).square().mean(-1)
        self.distance = torch.minimum(self.distance, away)
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """The distances; the caller saves the generator."""
        return {"distance": self.distance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.distance = state["distance"].clone()


class EpisodeGate:
    """Accepts an episode into the context only if its score exceeds the best so far; all tasks in parallel.

    Reference episodes, each with a given context, determine the best score and its context. The evidence then
    starts with the best reference episode. An update episode with a higher score is accepted and joins the
    evidence. Otherwise the evidence is reset to its state before the best episode, and the context with the best
    score is used again. The last episode uses that context.

    Args:
        tasks, episodes (int): sizes. context_dim (int): d.

    Keyword Args:
        ratchet (bool): whether an accepted score becomes the new threshold. True for returns. False for
            model-based judges (whose scores are minus the judge): the best reference score remains the
            threshold, and the last episode uses the current context.
        threshold (float, optional): a fixed threshold that replaces it.
        like (Tensor, optional): determines dtype and device of contexts.

    Attributes:
        best (Tensor): ``[tasks]``, the best score. best_context (Tensor): ``[tasks, d]``, the
            corresponding context.
        evidence (Tensor): ``[tasks, episodes]`` boolean, the episodes to infer the next context from.
        falls_back (Tensor): ``[tasks]`` boolean, true if the best context is used instead of inference.
        accepted (Tensor): ``[tasks, episodes]`` boolean, the update episodes that passed.

    Source: IDAQ (ICML 2023), as released.

    Examples:
        >>> gate = EpisodeGate(tasks=1, episodes=5, context_dim=1)
        >>> gate.observe_reference(0, torch.tensor([-3.0]), torch.tensor([[0.1]]))
        >>> gate.observe_reference(1, torch.tensor([-5.0]), torch.tensor([[0.2]]))
        >>> gate.begin_update()
        >>> gate.evidence.tolist()
        [[True, False, False, False, False]]
        >>> gate.observe_update(2, torch.tensor([-1.0]), torch.tensor([[0.3]]))  # better: it joins
        >>> gate.evidence.tolist()
        [[True, False, True, False, False]]
        >>> gate.observe_update(3, torch.tensor([-2.0]), torch.tensor([[0.4]]))  # worse: back to 0.3
        >>> gate.next_context(torch.tensor([[9.9]])), gate.final_context(torch.tensor([[9.9]]))
        (tensor([[0.3000]]), tensor([[0.3000]]))
    """

    def __init__(
        self,
        tasks: int,
        episodes: int,
        context_dim: int,
        *,
        ratchet: bool = True,
        threshold: float | None = None,
        like: Tensor | None = None,
    ) -> None:
        like = torch.zeros(()) if like is None else like
        self.ratchet, self.threshold = ratchet and threshold is None, threshold
        self.best = like.new_full((tasks,), -torch.inf)
        self.best_context = like.new_zeros(tasks, context_dim)
        empty = torch.zeros(tasks, episodes, dtype=torch.bool, device=like.device)
        self.evidence, self.accepted = empty, empty.clone()
        self.falls_back = empty.new_zeros(tasks)
        self._evidence_of_best, self._best_reference = empty.clone(), empty.clone()

    def observe_reference(self, episode: int, score: Tensor, context: Tensor) -> None:
        """Record a reference episode: its number, score ``[tasks]`` and context ``[tasks, d]``."""
        better = score > self.best
        only_this = torch.zeros_like(self.evidence)
        only_this[:, episode] = True
        self._best_reference = _where(better, only_this, self._best_reference)
        self.best = torch.where(better, score, self.best)
        self.best_context = _where(better, context, self.best_context)

    def begin_update(self) -> None:
        """End the reference stage: the evidence is now the best reference episode."""
        self.evidence = self._best_reference.clone()
        self.falls_back = torch.zeros_like(self.falls_back)

    def next_context(self, inferred: Tensor) -> Tensor:
        """The context of the next episode ``[tasks, d]``, given the one inferred from ``evidence``."""
        return _where(self.falls_back, self.best_context, inferred)

    def observe_update(self, episode: int, score: Tensor, context: Tensor) -> None:
        """Judge update episode number ``episode`` by its score; ``context`` is the context it used."""
        passed = score > (self.best if self.threshold is None else self.threshold)
        self._evidence_of_best = _where(passed, self.evidence, self._evidence_of_best)
        joined = self.evidence.clone()
        joined[:, episode] = True
        self.evidence = _where(passed, joined, self._evidence_of_best)
        self.best_context = _where(passed, context, self.best_context)
        if self.ratchet:
            self.best = torch.where(passed, score, self.best)
        self.falls_back = ~passed
        self.accepted = self.accepted.clone()
        self.accepted[:, episode] = passed

    def final_context(self, inferred: Tensor) -> Tensor:
        """The context ``[tasks, d]`` of the last episode, whose return is reported."""
        return self.best_context if self.ratchet else self.next_context(inferred)

    _STATE = (
        "best",
        "best_context",
        "evidence",
        "accepted",
        "falls_back",
        "_evidence_of_best",
        "_best_reference",
    )

    def state_dict(self) -> dict[str, Any]:
        """The recorded state."""
        return {name: getattr(self, name) for name in self._STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        for name in self._STATE:
            setattr(self, name, state[name].clone())


def _where(condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Select rows from either tensor, ``[tasks, *]``."""
    return torch.where(condition.unsqueeze(-1), chosen, other)
