"""CSRO's own collection: exploration and measurement take turns, and the context lags behind."""

from __future__ import annotations

from torch import Tensor

from ctmrl_torchrl.collectors.protocol import AdaptationProtocol, ProtocolSettings, register_protocol
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.rules import require


@register_protocol("np_csro")
class InterleavedProtocol(AdaptationProtocol):
    """``np_csro``: ``np`` as CSRO's release counts it.

    Blocks of exploration and measured episodes take turns, and a step count decides what exploration does: with
    N measured episodes of H steps, step t of the block that follows n measured steps is random while ``n + t``
    is less than ``N H / 2``, and the stochastic policy's afterwards; one block may be random at first and the
    policy's then. The context is inferred anew only after a measured episode, from all blocks so far, and only
    once there have been ``prior_episodes`` of them; the block before a measurement is therefore not yet part of
    the context that is measured, and the last block never is. Under ``np``, on the other hand, whole episodes
    are random, as many as are asked for, and every episode counts at once.

    A block is one episode here, also where it ends early; the release goes on until there are H steps. The
    measurement that precedes all exploration is not among the N.

    Args:
        episodes (int): measured episodes in all; N is one less. Defaults to 20.
        prior_episodes (int): of the N, those before the first inference. Released 1 on point robots, 2
            elsewhere. Defaults to 2.

    Raises:
        ValueError: if one of them is not positive.

    Source: CSRO (NeurIPS 2023), the non-prior collection, as released.

    Examples:
        >>> protocol = InterleavedProtocol(episodes=4)  # N = 3
        >>> [protocol.random_steps(block, horizon=200) for block in range(3)]
        [200, 100, 0]
    """

    def __init__(self, episodes: int = 20, prior_episodes: int = 2) -> None:
        super().__init__(episodes)
        if prior_episodes < 1:
            raise ValueError(f"InterleavedProtocol: prior_episodes={prior_episodes} must be at least 1.")
        self.prior_episodes = prior_episodes

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> InterleavedProtocol:
        """The protocol with the budgets of the settings."""
        return cls(settings.episodes, settings.prior_episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """The last measurement must have a context."""
        require(
            settings.episodes > settings.prior_episodes + 1,
            "evaluation.episodes",
            settings.episodes,
            f"at least {settings.prior_episodes + 2} under protocol 'np_csro' with evaluation.prior_episodes="
            f"{settings.prior_episodes}, so that the last measurement has a context",
        )

    def random_steps(self, block: int, horizon: int) -> int:
        """How many steps at the beginning of a block (from 0) are random."""
        half = -(-(self.episodes - 1) * horizon // 2)
        return min(max(half - block * horizon, 0), horizon)

    def _inferred(self, run: AdaptationRun, blocks: int) -> Tensor:
        """What is inferred after as many measured episodes as blocks."""
        return run.encode(run.episodes[:blocks]) if blocks >= self.prior_episodes else run.prior_context

    def context(self, run: AdaptationRun) -> Tensor:
        """What was inferred after the previous measured episode, without the latest block."""
        return self._inferred(run, len(run.episodes) - 1)

    def collect(self, run: AdaptationRun) -> None:
        """Explore for one block."""
        block = len(run.episodes)
        steps = self.random_steps(block, run.horizon)
        if steps == run.horizon:
            run.add(run.play_randomly())
        else:
            run.add(run.play(self._inferred(run, block), stochastic=True, random_steps=steps))
