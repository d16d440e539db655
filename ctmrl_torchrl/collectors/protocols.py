"""Adaptation protocols: how evidence about an unseen task is gathered, as small strategies.

Budgets count episodes: ``episodes`` measured episodes, with ``episodes - 1`` collected between them.
"""

from __future__ import annotations

from typing import Protocol

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors.meta_test import AdaptationRun


class AdaptationProtocol(Protocol):
    """What :class:`~ctmrl_torchrl.collectors.MetaTestCollector` asks of a protocol."""

    name: str
    episodes: int

    def reset(self, run: AdaptationRun) -> None:
        """Forget everything: a new meta-test begins."""

    def context(self, run: AdaptationRun) -> Tensor:
        """The contexts ``[n, d]`` to act with, given the evidence so far."""

    def collect(self, run: AdaptationRun, measured: TensorDictBase) -> None:
        """Add one episode to the evidence; ``measured`` is the episode just played with :meth:`context`."""


class _EncodeAll:
    """Context of everything collected; the prior before the first episode."""

    def __init__(self, episodes: int = 20) -> None:
        if episodes < 1:
            raise ValueError(f"{type(self).__name__}: episodes={episodes} must be at least 1.")
        self.episodes = episodes

    def reset(self, run: AdaptationRun) -> None:
        """Nothing is kept outside of the run."""

    def context(self, run: AdaptationRun) -> Tensor:
        """Encode all evidence together."""
        return run.encode(run.episodes) if run.episodes else run.prior_context


class OfflineProtocol(_EncodeAll):
    """``offline``: before every further measurement an episode of the task's own data joins the context."""

    name = "offline"

    def collect(self, run: AdaptationRun, measured: TensorDictBase) -> None:
        """Draw an episode from the row's dataset."""
        run.add(run.draw_offline())


class OnlineProtocol(_EncodeAll):
    """``online``: starts from the prior context (zeros) and learns from its own stochastic episodes."""

    name = "online"

    def collect(self, run: AdaptationRun, measured: TensorDictBase) -> None:
        """Play the policy with the present context, with its noise."""
        run.add(run.play(self.context(run), stochastic=True))


class NonPriorProtocol(_EncodeAll):
    """``np``, the default: random episodes first, then the policy's own, as in the paper.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): how many of the collected ones are uniformly random. Defaults to 10.
    """

    name = "np"

    def __init__(self, episodes: int = 20, random_episodes: int = 10) -> None:
        super().__init__(episodes)
        if random_episodes < 1:
            raise ValueError(f"NonPriorProtocol: random_episodes={random_episodes} must be at least 1.")
        self.random_episodes = random_episodes

    def collect(self, run: AdaptationRun, measured: TensorDictBase) -> None:
        """A random episode, or one of the policy's own once there are enough."""
        explore = len(run.episodes) < self.random_episodes
        run.add(run.play_randomly() if explore else run.play(self.context(run), stochastic=True))


class CodesProtocol:
    """``codes``: explore by playing the policy with each code as its context, then adapt from the best.

    The evidence of a row is its best episodes so far by return. Every context that has been played is
    remembered with its return, and the best of them is what the row acts with; further episodes try contexts
    inferred from the best 1, 2, ... ``keep`` episodes. Needs no knowledge of the task and no random
    exploration.

    Args:
        codes (Tensor): ``[N, d]``.
        episodes (int): measured episodes in all, N of the collected ones being spent on the codes. Defaults
            to 20.
        keep (int): at most so many of the best episodes make a context. Defaults to 3.

    Raises:
        ValueError: if the budget does not allow every code to be played once, or ``keep`` is less than 1.
    """

    name = "codes"

    def __init__(self, codes: Tensor, episodes: int = 20, keep: int = 3) -> None:
        if codes.shape[0] >= episodes:
            raise ValueError(
                f"CodesProtocol: playing each of {codes.shape[0]} codes once needs more than {episodes} "
                "episodes; raise episodes or use a smaller codebook."
            )
        if keep < 1:
            raise ValueError(f"CodesProtocol: keep={keep} must be at least 1.")
        self.codes = codes.detach()
        self.episodes = episodes
        self.keep = keep

    def reset(self, run: AdaptationRun) -> None:
        """No context has been played yet."""
        self._best_context = run.prior_context
        self._best_return = torch.full_like(self._best_context[:, 0], -torch.inf)

    def context(self, run: AdaptationRun) -> Tensor:
        """The context of the best episode so far."""
        return self._best_context

    def proposal(self, run: AdaptationRun) -> Tensor:
        """The next context to try: a code, or what the best episodes say."""
        played = len(run.episodes)
        if played < self.codes.shape[0]:
            return self.codes[played].expand(run.task_ids.numel(), -1)
        best = 1 + (played - self.codes.shape[0]) % self.keep
        return run.encode(best_episodes(run, best))

    def collect(self, run: AdaptationRun, measured: TensorDictBase) -> None:
        """Play the proposal; keep it if nothing did better."""
        proposal = self.proposal(run)
        run.add(run.play(proposal))
        better = run.returns[-1] > self._best_return
        self._best_return = torch.where(better, run.returns[-1], self._best_return)
        self._best_context = torch.where(better.unsqueeze(-1), proposal, self._best_context)


def best_episodes(run: AdaptationRun, number: int) -> list[TensorDictBase]:
    """The ``number`` best collected episodes of every row by return, each as ``[n, H]``."""
    order = torch.stack(run.returns, 1).topk(min(number, len(run.returns)), 1).indices
    stacked = torch.stack(run.episodes, 1)
    rows = torch.arange(order.shape[0], device=order.device)
    return [stacked[rows, order[:, rank]] for rank in range(order.shape[1])]
