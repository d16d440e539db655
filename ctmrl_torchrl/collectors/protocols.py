"""Adaptation protocols that encode all collected episodes, and two that collect nothing.

Budgets count episodes: ``episodes`` measured episodes, with ``episodes - 1`` collected between them.
"""

from __future__ import annotations

from torch import Tensor

from ctmrl_torchrl.collectors.protocol import (
    AdaptationProtocol,
    ProtocolSettings,
    register_protocol,
    require_random_episodes,
)
from ctmrl_torchrl.collectors.run import AdaptationRun


class EncodeAll(AdaptationProtocol):
    """Acts with the context of all collected episodes, or with the prior context if there are none."""

    def context(self, run: AdaptationRun) -> Tensor:
        """Encode all evidence together."""
        return run.encode(run.episodes) if run.episodes else run.prior_context


@register_protocol("offline")
class OfflineProtocol(EncodeAll):
    """``offline``: before each further measurement, an episode of the task's dataset is added to the context.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.

    Raises:
        ValueError: if it is not positive.

    Examples:
        >>> OfflineProtocol(episodes=6).name
        'offline'
    """

    description = "encodes the task's offline data"
    palette_index = 1
    needs_offline_data = True

    def collect(self, run: AdaptationRun) -> None:
        """Sample an episode from the row's dataset."""
        run.add(run.draw_offline())


@register_protocol("online")
class OnlineProtocol(EncodeAll):
    """``online``: starts from the prior context (zeros) and adapts with its own stochastic episodes.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.

    Raises:
        ValueError: if it is not positive.

    Examples:
        >>> OnlineProtocol(episodes=6).episodes
        6
    """

    description = "encodes policy episodes only"
    palette_index = 3
    keeps_episodes = True

    def collect(self, run: AdaptationRun) -> None:
        """Collect an episode of the stochastic policy with the current context."""
        run.add(run.play(self.context(run), stochastic=True))


@register_protocol("np")
class NonPriorProtocol(EncodeAll):
    """``np``, the default: random episodes first, then episodes of the policy, as in the paper.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.
        random_episodes (int): number of collected episodes with random actions. Defaults to 10.

    Raises:
        ValueError: if an argument is not positive.

    Examples:
        >>> protocol = NonPriorProtocol(episodes=6, random_episodes=2)  # as on MuJoCo
        >>> protocol.name, protocol.random_episodes
        ('np', 2)
    """

    description = "encodes random, then policy episodes"
    palette_index = 0
    keeps_episodes = True

    def __init__(self, episodes: int = 20, random_episodes: int = 10) -> None:
        super().__init__(episodes)
        if random_episodes < 1:
            raise ValueError(f"NonPriorProtocol: random_episodes={random_episodes} must be at least 1.")
        self.random_episodes = random_episodes

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> NonPriorProtocol:
        """The protocol with the budgets of the settings."""
        return cls(settings.episodes, settings.random_episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Check that an episode is left for adaptation after the random ones."""
        require_random_episodes(settings)

    def collect(self, run: AdaptationRun) -> None:
        """Collect a random episode, or a policy episode once there are enough."""
        explore = len(run.episodes) < self.random_episodes
        run.add(run.play_randomly() if explore else run.play(self.context(run), stochastic=True))


class OneEpisode(AdaptationProtocol):
    """Collects nothing and measures a single episode, regardless of the budget."""

    def __init__(self) -> None:
        super().__init__(episodes=1)

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> OneEpisode:
        """Create the protocol, which has no settings."""
        return cls()


@register_protocol("none")
class NoContextProtocol(OneEpisode):
    """``none``: one measured episode with the prior context (zeros), the baseline without adaptation.

    Examples:
        >>> NoContextProtocol().episodes
        1
    """

    description = "acts on a zero context"
    palette_index = 5
    encodes_unseen_tasks = False

    def context(self, run: AdaptationRun) -> Tensor:
        """The prior context."""
        return run.prior_context


@register_protocol("told")
class ToldProtocol(OneEpisode):
    """``told``: one measured episode with the context that the encoder computes from the task id.

    This measures the return with privileged task information. The encoder must only read ``task_id``, e.g. to
    look up the task's parameters. One oracle answer per row is counted.

    Examples:
        >>> ToldProtocol.needs_task_encoder
        True
    """

    description = "acts on the true task parameters"
    palette_index = 6
    needs_task_encoder = True

    def reset(self, run: AdaptationRun) -> None:
        """Query the oracle for the task of each row."""
        run.count_oracle_answers()

    def context(self, run: AdaptationRun) -> Tensor:
        """The context of each row's task."""
        return run.encode_task()
