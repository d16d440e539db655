"""Protocols that learn from the returns of what they try: exploration by codes, refinement of contexts.

Every context that a row has played is remembered with its return, and the row acts with the best of them.
Returns are observed in the task itself, so this needs no more than any adaptation has.
"""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors.meta_test import AdaptationRun


class _KeepBest:
    """Try contexts, keep the one whose episode returned most.

    Args:
        episodes (int): measured episodes in all.
        step (float): length of a shift. share (float): share of the evidence that a shift is made of.
    """

    def __init__(self, episodes: int, *, step: float = 1.5, share: float = 0.5) -> None:
        name = type(self).__name__
        if episodes < 1:
            raise ValueError(f"{name}: episodes={episodes} must be at least 1.")
        if not 0.0 < share < 1.0:
            raise ValueError(f"{name}: share={share} must lie between 0 and 1.")
        self.episodes = episodes
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
        """Play a context; keep it if nothing did better."""
        run.add(run.play(proposal))
        better = run.returns[-1] > self._best_return
        self._best_return = torch.where(better, run.returns[-1], self._best_return)
        self._best_context = torch.where(better.unsqueeze(-1), proposal, self._best_context)

    def _shifted(self, run: AdaptationRun, evidence: list[TensorDictBase]) -> Tensor:
        """The best context so far, shifted by what a random part of the evidence makes different.

        The shifts have the direction and the size of the context's own uncertainty, so there is no scale to
        tune for a task.
        """
        # Every row draws its own part: repeats of a task then try different shifts.
        scores = torch.rand(run.task_ids.numel(), len(evidence), generator=run.generator)
        part = _episodes_of_rows(evidence, scores.argsort(1)[:, : max(1, int(self.share * len(evidence)))])
        return self._best_context + self.step * (run.encode(part) - run.encode(evidence))


class RefineProtocol(_KeepBest):
    """``np_refine``: random episodes first, as ``np``; then the policy's own, each with a slightly other
    context.

    After the random episodes their joint context is played; every further own episode tries the best
    context so far, shifted by ``step`` times the difference that a random part of the random episodes makes
    to their joint context. Own episodes are judged by their return and do not enter the evidence.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): how many of the collected ones are uniformly random. Defaults to 10.
        step (float): length of a shift. Defaults to 1.5.
        share (float): share of the random episodes that make a shift. Defaults to a half.

    Raises:
        ValueError: if a number is out of its range.

    Examples:
        >>> RefineProtocol(episodes=20, random_episodes=10).step
        1.5
    """

    name = "np_refine"

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

    def context(self, run: AdaptationRun) -> Tensor:
        """All random episodes together; once contexts have been tried, the best of them."""
        if not run.episodes:
            return run.prior_context
        return run.encode(run.episodes) if len(run.episodes) <= self.random_episodes else self._best_context

    def collect(self, run: AdaptationRun) -> None:
        """A random episode, or an own one with the next context to try."""
        if len(run.episodes) < self.random_episodes:
            run.add(run.play_randomly())
            return
        evidence = run.episodes[: self.random_episodes]
        first = len(run.episodes) == self.random_episodes
        self._try(run, run.encode(evidence) if first else self._shifted(run, evidence))


class CodesProtocol(_KeepBest):
    """``codes``: explore by playing the policy with each code as its context, then adapt from what that told.

    After the codes, the contexts of all episodes together and of the best one alone are tried, then the best
    context so far shifted by ``step`` times the difference that a random part of the episodes makes. Needs
    no knowledge of the task and no random exploration.

    Args:
        codes (Tensor): ``[N, d]``.
        episodes (int): measured episodes in all, N of the collected ones being spent on the codes. Defaults
            to 20.
        step (float): length of a shift. Defaults to 1.5.
        share (float): share of the episodes that make a shift. Defaults to a half.

    Raises:
        ValueError: if the budget does not allow every code to be played once, or a number is out of range.

    Examples:
        >>> from ctmrl_torchrl.modules import Codebook
        >>> CodesProtocol(Codebook(8, 20).codes, episodes=20).codes.shape
        torch.Size([8, 20])
    """

    name = "codes"

    def __init__(self, codes: Tensor, episodes: int = 20, *, step: float = 1.5, share: float = 0.5) -> None:
        if codes.shape[0] >= episodes:
            raise ValueError(
                f"CodesProtocol: playing each of {codes.shape[0]} codes once needs more than {episodes} "
                "episodes; raise episodes or use a smaller codebook."
            )
        super().__init__(episodes, step=step, share=share)
        self.codes = codes.detach()

    def proposal(self, run: AdaptationRun) -> Tensor:
        """The next context to try: a code, what the episodes say, or a shift of the best context."""
        turn = len(run.episodes) - self.codes.shape[0]
        if turn < 0:
            return self.codes[turn].expand(run.task_ids.numel(), -1)
        if turn < 2:
            return run.encode(run.episodes if turn == 0 else best_episodes(run, 1))
        return self._shifted(run, run.episodes)

    def collect(self, run: AdaptationRun) -> None:
        """Play the proposal; keep it if nothing did better."""
        self._try(run, self.proposal(run))


def best_episodes(run: AdaptationRun, number: int) -> list[TensorDictBase]:
    """The ``number`` best collected episodes of every row by return, each as ``[n, H]``."""
    order = torch.stack(run.returns, 1).topk(min(number, len(run.returns)), 1).indices
    return _episodes_of_rows(run.episodes, order)


def _episodes_of_rows(episodes: list[TensorDictBase], order: Tensor) -> list[TensorDictBase]:
    """Other episodes for every row: those that ``order`` ``[n, k]`` names, as k entries ``[n, H]``."""
    stacked = torch.stack(episodes, 1)
    rows, order = torch.arange(order.shape[0], device=stacked.device), order.to(stacked.device)
    return [stacked[rows, order[:, rank]] for rank in range(order.shape[1])]
