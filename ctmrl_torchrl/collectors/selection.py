"""Protocols that judge contexts by the returns of their episodes: candidates, refinement of a context.

Each row remembers the return of every context that it has played, and acts with the best of them. Returns
are observed in the task itself, so no privileged information is used.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors.protocol import (
    AdaptationProtocol,
    ProtocolSettings,
    register_protocol,
    require_random_episodes,
)
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.rules import require


class KeepBest(AdaptationProtocol):
    """Tries contexts and keeps the one whose episode returned most.

    Args:
        episodes (int): measured episodes in all.
        step (float): length of a shift. share (float): share of the evidence that a shift is made of.

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
        """No context has been played yet."""
        self._best_context = run.prior_context
        self._best_return = torch.full_like(self._best_context[:, 0], -torch.inf)

    def context(self, run: AdaptationRun) -> Tensor:
        """The context of the best episode so far."""
        return self._best_context

    def _try(self, run: AdaptationRun, proposal: Tensor) -> None:
        """Play a context and keep it if it did better than all before."""
        run.add(run.play(proposal))
        better = run.returns[-1] > self._best_return
        self._best_return = torch.where(better, run.returns[-1], self._best_return)
        self._best_context = torch.where(better.unsqueeze(-1), proposal, self._best_context)

    def _shifted(self, run: AdaptationRun, evidence: list[TensorDictBase]) -> Tensor:
        """The best context so far, shifted by the difference that a random part of the evidence makes.

        Direction and size of the shift follow the uncertainty of the context itself, so no scale has to be
        tuned per task.
        """
        # Each row draws its own part, so that repeats of a task try different shifts.
        scores = torch.rand(run.task_ids.numel(), len(evidence), generator=run.generator)
        part = _episodes_of_rows(evidence, scores.argsort(1)[:, : max(1, int(self.share * len(evidence)))])
        return self._best_context + self.step * (run.encode(part) - run.encode(evidence))


@register_protocol("np_refine")
class RefineProtocol(KeepBest):
    """``np_refine``: random episodes first, as in ``np``; then the policy's own, each with a shifted context.

    After the random episodes their joint context is played. Each further episode tries the best context so
    far, shifted by ``step`` times the difference between the context of a random part of the random episodes
    and their joint context. The policy's own episodes are judged by their return and do not enter the
    evidence.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): how many of the collected ones are uniformly random. Defaults to 10.
        step (float): length of a shift. Defaults to 1.5.
        share (float): share of the random episodes that a shift is made of. Defaults to 0.5.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> RefineProtocol(episodes=20, random_episodes=10).step
        1.5
    """

    def __init__(
        self, episodes: int = 20, random_episodes: int = 10, *, step: float = 1.5, share: float = 0.5
    ) -> None:
        super().__init__(episodes, step=step, share=share)
        if random_episodes < 2:
            raise ValueError(
                f"RefineProtocol: random_episodes={random_episodes} must be at least 2, so that a part "
                "of them can be compared with all."
            )
        self.random_episodes = random_episodes

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> RefineProtocol:
        """The protocol with the budgets of the settings."""
        return cls(settings.episodes, settings.random_episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """At least two random episodes, and one left to adapt with."""
        require_random_episodes(settings)
        require(
            settings.random_episodes > 1,
            "evaluation.random_episodes",
            settings.random_episodes,
            "at least 2 under protocol 'np_refine', which compares a part of them with all",
        )

    def context(self, run: AdaptationRun) -> Tensor:
        """The joint context of the random episodes; once contexts have been tried, the best of them."""
        if not run.episodes:
            return run.prior_context
        return run.encode(run.episodes) if len(run.episodes) <= self.random_episodes else self._best_context

    def collect(self, run: AdaptationRun) -> None:
        """Play a random episode, or the policy with the next context to try."""
        if len(run.episodes) < self.random_episodes:
            run.add(run.play_randomly())
            return
        evidence = run.episodes[: self.random_episodes]
        first = len(run.episodes) == self.random_episodes
        self._try(run, run.encode(evidence) if first else self._shifted(run, evidence))


@register_protocol("codes")
class CandidatesProtocol(KeepBest):
    """``codes``: explores by playing the policy with each of some candidate contexts, then adapts from that.

    The candidates are the codes of a codebook, or contexts of training tasks where a method has no codes.
    After them, the joint context of all episodes and the context of the best one alone are tried, then the
    best context so far, shifted by ``step`` times the difference that a random part of the episodes makes.
    Needs neither knowledge of the task nor random exploration.

    Args:
        candidates (Tensor): contexts ``[N, d]``, tried in this order.
        episodes (int): measured episodes in all; N of the collected ones are spent on the candidates.
            Defaults to 20.
        step (float): length of a shift. Defaults to 1.5.
        share (float): share of the episodes that a shift is made of. Defaults to 0.5.

    Raises:
        ValueError: if the budget does not allow each candidate to be played once, or a number is out of
            range.

    Examples:
        >>> from ctmrl_torchrl.modules import Codebook
        >>> CandidatesProtocol(Codebook(8, 20).codes, episodes=20).candidates.shape
        torch.Size([8, 20])
    """

    needs_candidates = True

    def __init__(
        self, candidates: Tensor, episodes: int = 20, *, step: float = 1.5, share: float = 0.5
    ) -> None:
        if candidates.shape[0] >= episodes:
            raise ValueError(
                f"CandidatesProtocol: playing each of {candidates.shape[0]} candidates once needs more than "
                f"{episodes} episodes; raise episodes or pass fewer candidates."
            )
        super().__init__(episodes, step=step, share=share)
        self.candidates = candidates.detach()

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> CandidatesProtocol:
        """The protocol with the candidates that the settings give now.

        Raises:
            ConfigError: if they give none.
        """
        cls._require_candidates(settings.candidates is not None)
        return cls(settings.candidates(), settings.episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """There must be candidates, and more episodes than candidates."""
        number = settings.num_candidates
        cls._require_candidates(settings.candidates is not None or number is not None)
        require(
            number is None or settings.episodes > number,
            "evaluation.episodes",
            settings.episodes,
            f"more than {number} under protocol 'codes', which plays each of the {number} candidates once "
            "(or fewer candidates, e.g. a smaller representation.codes, or evaluation.protocols without "
            "'codes')",
        )

    @staticmethod
    def _require_candidates(there_are: bool) -> None:
        require(
            there_are,
            "evaluation.protocols",
            "codes",
            "anything without 'codes', which plays candidate contexts, and none were given",
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
        """Play the proposal and keep it if it did better than all before."""
        self._try(run, self.proposal(run))


def best_episodes(run: AdaptationRun, number: int) -> list[TensorDictBase]:
    """The ``number`` best collected episodes of every row by return, each as ``[n, H]``."""
    order = torch.stack(run.returns, 1).topk(min(number, len(run.returns)), 1).indices
    return _episodes_of_rows(run.episodes, order)


def _episodes_of_rows(episodes: list[TensorDictBase], order: Tensor) -> list[TensorDictBase]:
    """Episodes chosen per row: those that ``order`` ``[n, k]`` names, as k entries ``[n, H]``."""
    stacked = torch.stack(episodes, 1)
    rows, order = torch.arange(order.shape[0], device=stacked.device), order.to(stacked.device)
    return [stacked[rows, order[:, rank]] for rank in range(order.shape[1])]
