"""Protocols that select contexts by return: candidates and refinement of a context.

Each row records the return of every context it has tried and acts with the best one. Returns are observed in
the task itself, so no privileged information is used.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors.protocol import (
    AdaptationProtocol,
    ProtocolSettings,
    register_protocol,
    require_contexts,
    require_random_episodes,
)
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.rules import require
from ctmrl_torchrl.typed import stack_tensordicts


class KeepBest(AdaptationProtocol):
    """Tries contexts and keeps the one with the highest return.

    Args:
        episodes (int): number of measured episodes.
        step (float): length of a shift. share (float): fraction of the evidence used for a shift.

    Raises:
        ValueError: if ``episodes`` is not positive, or ``share`` does not lie between 0 and 1.
    """

    def __init__(self, episodes: int, *, step: float = 1.5, share: float = 0.5) -> None:
        super().__init__(episodes)
        if not 0.0 < share < 1.0:
            raise ValueError(f"{type(self).__name__}: share={share} must lie between 0 and 1.")
        self.step = step
        self.share = share

    def reset(self, run: AdaptationRun) -> None:
        """Reset to the state without tried contexts."""
        self._best_context = run.prior_context
        self._best_return = torch.full_like(self._best_context[:, 0], -torch.inf)

    def context(self, run: AdaptationRun) -> Tensor:
        """The context of the best episode so far."""
        return self._best_context

    def _try(self, run: AdaptationRun, proposal: Tensor) -> None:
        """Collect an episode with a context and keep the context if it is the best so far."""
        run.add(run.play(proposal))
        better = run.returns[-1] > self._best_return
        self._best_return = torch.where(better, run.returns[-1], self._best_return)
        self._best_context = torch.where(better.unsqueeze(-1), proposal, self._best_context)

    def _shifted(self, run: AdaptationRun, evidence: list[TensorDictBase]) -> Tensor:
        """The best context so far, shifted by a difference computed from a random part of the evidence.

        Direction and size of the shift reflect the uncertainty of the context, so no scale must be tuned per
        task.
        """
        # Each row samples its own part, so that repeats of a task try different shifts.
        scores = torch.rand(run.task_ids.numel(), len(evidence), generator=run.generator)
        part = _episodes_of_rows(evidence, scores.argsort(1)[:, : max(1, int(self.share * len(evidence)))])
        return self._best_context + self.step * (run.encode(part) - run.encode(evidence))


@register_protocol("np_refine")
class RefineProtocol(KeepBest):
    """``np_refine``: random episodes first, as in ``np``; then policy episodes with shifted contexts.

    The first policy episode uses the joint context of the random episodes. Each further episode tries the best
    context so far, shifted by ``step`` times the difference between the context of a random subset of the random
    episodes and their joint context. Policy episodes only provide returns and do not join the evidence.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): number of collected episodes with random actions. Defaults to 10.
        step (float): length of a shift. Defaults to 1.5.
        share (float): fraction of the random episodes used for a shift. Defaults to 0.5.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> RefineProtocol(episodes=20, random_episodes=10).step
        1.5
    """

    description = "shifts the context of np, keeps the best"
    palette_index = 4
    keeps_episodes = True

    def __init__(
        self, episodes: int = 20, random_episodes: int = 10, *, step: float = 1.5, share: float = 0.5
    ) -> None:
        super().__init__(episodes, step=step, share=share)
        if random_episodes < 2:
            raise ValueError(
                f"RefineProtocol: random_episodes={random_episodes} must be at least 2, so that a subset "
                "can be compared with all of them."
            )
        self.random_episodes = random_episodes

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> RefineProtocol:
        """The protocol with the budgets of the settings."""
        return cls(settings.episodes, settings.random_episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Check for at least two random episodes and one left for adaptation."""
        require_random_episodes(settings)
        require(
            settings.random_episodes > 1,
            "evaluation.random_episodes",
            settings.random_episodes,
            "at least 2 under protocol 'np_refine', which compares a subset with all of them",
        )

    def context(self, run: AdaptationRun) -> Tensor:
        """The joint context of the random episodes, or the best context once some have been tried."""
        if not run.episodes:
            return run.prior_context
        return run.encode(run.episodes) if len(run.episodes) <= self.random_episodes else self._best_context

    def collect(self, run: AdaptationRun) -> None:
        """Collect a random episode, or a policy episode with the next context to try."""
        if len(run.episodes) < self.random_episodes:
            run.add(run.play_randomly())
            return
        evidence = run.episodes[: self.random_episodes]
        first = len(run.episodes) == self.random_episodes
        self._try(run, run.encode(evidence) if first else self._shifted(run, evidence))


@register_protocol("codes")
class CandidatesProtocol(KeepBest):
    """``codes``: explores with one policy episode per candidate context, then adapts from these episodes.

    The candidates are the codes of a codebook, or centers of the training tasks' contexts without one. After
    them, the joint context of all episodes and the context of the best episode are tried, then the best context
    so far, shifted by ``step`` times the difference for a random subset of the episodes. This protocol needs
    neither task information nor random exploration. Without an encoder for unseen tasks, it collects nothing
    after the candidates.

    Args:
        candidates (Tensor): contexts ``[N, d]``, tried in this order.
        episodes (int): number of measured episodes; N of the collected episodes are used for the candidates.
            Defaults to 20.
        step (float): length of a shift. Defaults to 1.5.
        share (float): fraction of the episodes used for a shift. Defaults to 0.5.
        encodes (bool): whether the encoder can encode the collected episodes. Defaults to True.

    Raises:
        ValueError: if the budget does not allow each candidate to be played once, or a number is out of
            range.

    Examples:
        >>> from ctmrl_torchrl.modules import Codebook
        >>> CandidatesProtocol(Codebook(8, 20).codes, episodes=20).candidates.shape
        torch.Size([8, 20])
    """

    description = "tries every code, keeps the best"
    palette_index = 2
    needs_candidates = True
    encodes_unseen_tasks = False

    def __init__(
        self,
        candidates: Tensor,
        episodes: int = 20,
        *,
        step: float = 1.5,
        share: float = 0.5,
        encodes: bool = True,
    ) -> None:
        self.encodes = encodes
        self.candidates = require_contexts(candidates, 1, type(self).__name__, "candidates")
        if candidates.shape[0] >= episodes:
            raise ValueError(
                f"CandidatesProtocol: trying each of {candidates.shape[0]} candidates once needs more than "
                f"{episodes} episodes; raise episodes or pass fewer candidates."
            )
        super().__init__(episodes, step=step, share=share)

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> CandidatesProtocol:
        """The protocol with the current candidates of the settings.

        Raises:
            ConfigError: if there are none.
        """
        cls._require_candidates(settings.candidates is not None)
        assert settings.candidates is not None
        return cls(settings.candidates(), settings.episodes, encodes=settings.encodes_unseen_tasks)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Check that there are candidates, and more episodes than candidates."""
        number = settings.num_candidates
        cls._require_candidates(settings.candidates is not None or number is not None)
        require(
            number is None or settings.episodes > number,
            "evaluation.episodes",
            settings.episodes,
            f"more than {number} under protocol 'codes', which tries each of the {number} candidates once "
            "(or fewer candidates, e.g. a smaller representation.codes, or evaluation.protocols without "
            "'codes')",
        )

    @staticmethod
    def _require_candidates(there_are: bool) -> None:
        require(
            there_are,
            "evaluation.protocols",
            "codes",
            "anything without 'codes', which needs candidate contexts, but none were given",
        )

    def proposal(self, run: AdaptationRun) -> Tensor:
        """The next context to try: a candidate, a context of the episodes, or a shift of the best context."""
        turn = len(run.episodes) - self.candidates.shape[0]
        if turn < 0:
            return self.candidates[turn].expand(run.task_ids.numel(), -1)
        if turn < 2:
            return run.encode(run.episodes if turn == 0 else best_episodes(run, 1))
        return self._shifted(run, run.episodes)

    def collect(self, run: AdaptationRun) -> None:
        """Collect an episode with the proposal and keep it if it is the best so far."""
        if self.encodes or len(run.episodes) < self.candidates.shape[0]:
            self._try(run, self.proposal(run))


def best_episodes(run: AdaptationRun, number: int) -> list[TensorDictBase]:
    """The ``number`` best collected episodes of every row by return, each as ``[n, H]``."""
    order = torch.stack(run.returns, 1).topk(min(number, len(run.returns)), 1).indices
    return _episodes_of_rows(run.episodes, order)


def _episodes_of_rows(episodes: list[TensorDictBase], order: Tensor) -> list[TensorDictBase]:
    """Select episodes per row by ``order`` ``[n, k]``, as k entries ``[n, H]``."""
    stacked: Any = stack_tensordicts(episodes, 1)
    rows, order = torch.arange(order.shape[0], device=stacked.device), order.to(stacked.device)
    return [stacked[rows, order[:, rank]] for rank in range(order.shape[1])]
