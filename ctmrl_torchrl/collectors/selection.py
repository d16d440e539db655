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
    """Try contexts, keep the one whose episode returned most."""

    def __init__(self, episodes: int) -> None:
        if episodes < 1:
            raise ValueError(f"{type(self).__name__}: episodes={episodes} must be at least 1.")
        self.episodes = episodes

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


class RefineProtocol(_KeepBest):
    """``np_refine``: random episodes first, as ``np``; then the policy's own, each with a slightly other
    context.

    After the random episodes their joint context is played; every further own episode tries the best
    context so far, shifted by ``step`` times the difference that a random subset of the random episodes
    makes to their joint context. The shifts so have the direction and the size of the context's own
    uncertainty. Own episodes are judged by their return and do not enter the evidence, where they would
    confirm a wrong belief.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): how many of the collected ones are uniformly random. Defaults to 10.
        subset (int): random episodes per subset. Defaults to 5.
        step (float): length of a shift. Defaults to 1.5.

    Raises:
        ValueError: if a number is out of its range.
    """

    name = "np_refine"

    def __init__(
        self, episodes: int = 20, random_episodes: int = 10, *, subset: int = 5, step: float = 1.5
    ) -> None:
        super().__init__(episodes)
        if random_episodes < 1 or subset < 1:
            raise ValueError(
                f"RefineProtocol: random_episodes={random_episodes} and subset={subset} must be at least 1."
            )
        self.random_episodes = random_episodes
        self.subset = subset
        self.step = step

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
        joint = run.encode(evidence)
        if len(run.episodes) == self.random_episodes:
            self._try(run, joint)
            return
        order = torch.randperm(len(evidence), generator=run.generator)[: self.subset]
        shift = run.encode([evidence[index] for index in order.tolist()]) - joint
        self._try(run, self._best_context + self.step * shift)


class CodesProtocol(_KeepBest):
    """``codes``: explore by playing the policy with each code as its context, then adapt from the best.

    After the codes, contexts inferred from the best and from the two best episodes are tried, then the best
    context so far shifted by ``step`` times what one or more further good episodes add to the best one's
    context, forwards and backwards in turn. Needs no knowledge of the task and no random exploration.

    Args:
        codes (Tensor): ``[N, d]``.
        episodes (int): measured episodes in all, N of the collected ones being spent on the codes. Defaults
            to 20.
        keep (int): at most so many of the best episodes make a context; at least 2. Defaults to 3.
        step (float): length of a shift. Defaults to 1.5.

    Raises:
        ValueError: if the budget does not allow every code to be played once, or ``keep`` is less than 2.
    """

    name = "codes"

    def __init__(self, codes: Tensor, episodes: int = 20, keep: int = 3, *, step: float = 1.5) -> None:
        if codes.shape[0] >= episodes:
            raise ValueError(
                f"CodesProtocol: playing each of {codes.shape[0]} codes once needs more than {episodes} "
                "episodes; raise episodes or use a smaller codebook."
            )
        super().__init__(episodes)
        if keep < 2:
            raise ValueError(f"CodesProtocol: keep={keep} must be at least 2.")
        self.codes = codes.detach()
        self.keep = keep
        self.step = step

    def proposal(self, run: AdaptationRun) -> Tensor:
        """The next context to try: a code, what the best episodes say, or a shift of the best context."""
        turn = len(run.episodes) - self.codes.shape[0]
        if turn < 0:
            return self.codes[turn].expand(run.task_ids.numel(), -1)
        if turn < 2:
            return run.encode(best_episodes(run, turn + 1))
        more = 2 + turn % (self.keep - 1)
        shift = run.encode(best_episodes(run, more)) - run.encode(best_episodes(run, 1))
        forwards = turn // (self.keep - 1) % 2 == 0
        return self._best_context + (self.step if forwards else -self.step) * shift

    def collect(self, run: AdaptationRun) -> None:
        """Play the proposal; keep it if nothing did better."""
        self._try(run, self.proposal(run))


def best_episodes(run: AdaptationRun, number: int) -> list[TensorDictBase]:
    """The ``number`` best collected episodes of every row by return, each as ``[n, H]``."""
    order = torch.stack(run.returns, 1).topk(min(number, len(run.returns)), 1).indices
    stacked = torch.stack(run.episodes, 1)
    rows = torch.arange(order.shape[0], device=order.device)
    return [stacked[rows, order[:, rank]] for rank in range(order.shape[1])]
