"""Adaptation protocols: how evidence about an unseen task is gathered, as small strategies.

Budgets count episodes: ``episodes`` measured episodes, with ``episodes - 1`` collected between them.
"""

from __future__ import annotations

from torch import Tensor

from ctmrl_torchrl.collectors.meta_test import AdaptationRun


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
    """``offline``: before every further measurement an episode of the task's own data joins the context.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.

    Raises:
        ValueError: if it is not positive.

    Examples:
        >>> OfflineProtocol(episodes=6).name
        'offline'
    """

    name = "offline"

    def collect(self, run: AdaptationRun) -> None:
        """Draw an episode from the row's dataset."""
        run.add(run.draw_offline())


class OnlineProtocol(_EncodeAll):
    """``online``: starts from the prior context (zeros) and learns from its own stochastic episodes.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.

    Raises:
        ValueError: if it is not positive.

    Examples:
        >>> OnlineProtocol(episodes=6).episodes
        6
    """

    name = "online"

    def collect(self, run: AdaptationRun) -> None:
        """Play the policy with the present context, with its noise."""
        run.add(run.play(self.context(run), stochastic=True))


class NonPriorProtocol(_EncodeAll):
    """``np``, the default: random episodes first, then the policy's own, as in the paper.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): how many of the collected ones are uniformly random. Defaults to 10.

    Raises:
        ValueError: if one of them is not positive.

    Examples:
        >>> protocol = NonPriorProtocol(episodes=6, random_episodes=2)  # as on MuJoCo
        >>> protocol.name, protocol.random_episodes
        ('np', 2)
    """

    name = "np"

    def __init__(self, episodes: int = 20, random_episodes: int = 10) -> None:
        super().__init__(episodes)
        if random_episodes < 1:
            raise ValueError(f"NonPriorProtocol: random_episodes={random_episodes} must be at least 1.")
        self.random_episodes = random_episodes

    def collect(self, run: AdaptationRun) -> None:
        """A random episode, or one of the policy's own once there are enough."""
        explore = len(run.episodes) < self.random_episodes
        run.add(run.play_randomly() if explore else run.play(self.context(run), stochastic=True))
