"""CSRO's collection: exploration and measurement alternate, and the context is updated with a delay."""

from __future__ import annotations

from torch import Tensor

from ctmrl_torchrl.collectors.protocol import AdaptationProtocol, ProtocolSettings, register_protocol
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.rules import require


@register_protocol("np_csro")
class InterleavedProtocol(AdaptationProtocol):
    """``np_csro``: ``np`` with the accounting of CSRO's released code.

    Exploration blocks and measured episodes alternate, and a step count determines the exploration policy: with N
    measured episodes of H steps, step t of the block after n measured steps is random while ``n + t`` is less
    than ``N H / 2``, and uses the stochastic policy afterwards. A block may start randomly and continue with the
    policy. The context is inferred only after a measured episode, from all blocks so far, and only once there
    have been ``prior_episodes`` of them. The block before a measurement is therefore not yet part of the measured
    context, and the last block never is. Under ``np``, in contrast, a fixed number of complete episodes is
    random, and every episode counts immediately.

    A block is one episode here, even if it ends early; the released code continues until there are H steps. The
    measurement before any exploration is not one of the N.

    Args:
        episodes (int): number of measured episodes; N is one less. Defaults to 20.
        prior_episodes (int): number of the N episodes before the first inference. Released 1 on point robots,
            2 elsewhere. Defaults to 2.

    Raises:
        ValueError: if an argument is not positive.

    Source: CSRO (NeurIPS 2023), the non-prior collection, as released.

    Examples:
        >>> protocol = InterleavedProtocol(episodes=4)  # N = 3
        >>> [protocol.random_steps(block, horizon=200) for block in range(3)]
        [200, 100, 0]
    """

    description = "np, as counted in the code of CSRO"
    palette_index = 8

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
        """Check that the last measurement has a context."""
        require(
            settings.episodes > settings.prior_episodes + 1,
            "evaluation.episodes",
            settings.episodes,
            f"at least {settings.prior_episodes + 2} under protocol 'np_csro' with evaluation.prior_episodes="
            f"{settings.prior_episodes}, so that the last measurement has a context",
        )

    def random_steps(self, block: int, horizon: int) -> int:
        """Number of random steps at the beginning of a block (from 0)."""
        half = -(-(self.episodes - 1) * horizon // 2)
        return min(max(half - block * horizon, 0), horizon)

    def _inferred(self, run: AdaptationRun, blocks: int) -> Tensor:
        """The context inferred after as many measured episodes as blocks."""
        return run.encode(run.episodes[:blocks]) if blocks >= self.prior_episodes else run.prior_context

    def context(self, run: AdaptationRun) -> Tensor:
        """The context inferred after the previous measured episode, without the latest block."""
        return self._inferred(run, len(run.episodes) - 1)

    def collect(self, run: AdaptationRun) -> None:
        """Explore for one block."""
        block = len(run.episodes)
        steps = self.random_steps(block, run.horizon)
        if steps == run.horizon:
            run.add(run.play_randomly())
        else:
            run.add(run.play(self._inferred(run, block), stochastic=True, random_steps=steps))
