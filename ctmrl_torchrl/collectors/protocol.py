"""What an adaptation protocol is: one contract, an open registry, and the settings that all are made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torch import Tensor

from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import require


@dataclass(frozen=True)
class ProtocolSettings:
    """What every protocol of a meta-test is made from.

    Args:
        episodes (int): measured episodes. Defaults to 20.
        random_episodes (int): how many of the collected episodes are uniformly random, where a protocol has
            such. Defaults to 10.
        prior_episodes (int): measured episodes before contexts are inferred, under ``np_csro``. Defaults to 2.
        reference_episodes (int, optional): collected episodes with contexts of training tasks, under
            ``idaq``. Defaults to ``random_episodes``.
        candidate_draws (int): candidates from which ``idaq`` takes the most different. Defaults to 5.
        judge (str): what ``idaq`` believes an episode by: ``return``, or a name for which ``options`` have
            ``judge_NAME``, a function of an episode ``[n, H]`` and the contexts ``[n, d]`` that it was played
            with.
        training_contexts (callable, optional): gives a context of every training task ``[tasks, d]``; asked
            when a meta-test begins.
        candidates (callable, optional): gives the contexts ``[N, d]`` that ``codes`` tries one by one; asked
            when a meta-test begins, so that they are those of the present agent.
        num_candidates (int, optional): N, where it is known before there is an agent.
        queries (int): questions to an oracle, where a protocol asks some. Defaults to 10.
        oracle_error (float): share of its answers that are wrong. Defaults to 0.2.
        options (mapping): further settings by name. Before there is an agent the values may be None: what
            counts then is that a name is there.
    """

    episodes: int = 20
    random_episodes: int = 10
    prior_episodes: int = 2
    reference_episodes: int | None = None
    candidate_draws: int = 5
    judge: str = "return"
    training_contexts: Callable[[], Tensor] | None = None
    candidates: Callable[[], Tensor] | None = None
    num_candidates: int | None = None
    queries: int = 10
    oracle_error: float = 0.2
    options: Mapping[str, Any] = field(default_factory=dict)


class AdaptationProtocol:
    """How evidence about an unseen task is gathered, and which context is acted with.

    :class:`~ctmrl_torchrl.collectors.MetaTestCollector` measures ``episodes`` episodes and lets the protocol
    collect one between each two of them. A protocol must define :meth:`context` and, unless it measures only
    one episode, :meth:`collect`. The decorator :func:`register_protocol` makes it a choice of
    ``evaluation.protocols``.

    Args:
        episodes (int): measured episodes in all. Defaults to 20.

    Attributes:
        name (str): its name in the registry, set by :func:`register_protocol`.
        needs_offline_data (bool): whether it draws episodes of the test tasks' own datasets.
        needs_candidates (bool): whether it plays ``ProtocolSettings.candidates``.
        needs_task_encoder (bool): whether it needs an encoder that reads the task id and nothing else.
        encodes_unseen_tasks (bool): whether it needs an encoder that makes contexts of unseen tasks; false for
            a protocol that never encodes anything.

    Raises:
        ValueError: if ``episodes`` is not positive.

    Examples:
        A protocol of one's own, in which only the latest random episode counts:

        >>> @register_protocol("last")
        ... class LastEpisode(AdaptationProtocol):
        ...     @classmethod
        ...     def check(cls, settings):
        ...         require(settings.episodes > 1, "evaluation.episodes", settings.episodes, "at least 2")
        ...     def context(self, run):
        ...         return run.encode(run.episodes[-1:]) if run.episodes else run.prior_context
        ...     def collect(self, run):
        ...         run.add(run.play_randomly())
        >>> protocol = PROTOCOLS.get("last").from_settings(ProtocolSettings(episodes=4))
        >>> protocol.name, protocol.episodes  # collector.run(protocol, seed=0) plays it
        ('last', 4)
        >>> LastEpisode.check(ProtocolSettings(episodes=1))
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.rules.ConfigError: config field evaluation.episodes: got 1, allowed is at least 2.
        >>> PROTOCOLS.unregister("last")
    """

    name: ClassVar[str] = ""
    needs_offline_data: ClassVar[bool] = False
    needs_candidates: ClassVar[bool] = False
    needs_task_encoder: ClassVar[bool] = False
    encodes_unseen_tasks: ClassVar[bool] = True

    def __init__(self, episodes: int = 20) -> None:
        if episodes < 1:
            raise ValueError(f"{type(self).__name__}: episodes={episodes} must be at least 1.")
        self.episodes = episodes

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> AdaptationProtocol:
        """The protocol that these settings describe."""
        return cls(settings.episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Refuse settings that the protocol cannot work with; there is no agent yet.

        Raises:
            ConfigError: naming the field of ``evaluation``.
        """

    def reset(self, run: AdaptationRun) -> None:
        """Forget everything: a new meta-test begins."""

    def context(self, run: AdaptationRun) -> Tensor:
        """The contexts ``[n, d]`` to act with, given the evidence so far."""
        raise TypeError(f"{type(self).__name__} must define context(run), which returns contexts [n, d].")

    def collect(self, run: AdaptationRun) -> None:
        """Add one episode to the evidence."""
        raise TypeError(
            f"{type(self).__name__} measures {self.episodes} episodes, so it must define collect(run), which "
            "adds an episode to the evidence: run.add(run.play_randomly())."
        )


#: adaptation protocols that ``evaluation.protocols`` chooses from
PROTOCOLS: Registry[type[AdaptationProtocol]] = Registry("adaptation protocol")

P = TypeVar("P", bound=type)


def register_protocol(name: str) -> Callable[[P], P]:
    """Class decorator that makes a protocol a choice of ``evaluation.protocols`` and sets its ``name``.

    Args:
        name (str): name of the choice.

    Raises:
        TypeError: if the class lacks one of the methods of :class:`AdaptationProtocol`.
        ValueError: if another protocol has this name.
    """

    def register(protocol: P) -> P:
        methods = ("from_settings", "check", "reset", "context", "collect")
        missing = [method for method in methods if not callable(getattr(protocol, method, None))]
        if missing:
            raise TypeError(
                f"The adaptation protocol {name!r} lacks {', '.join(missing)}; subclass AdaptationProtocol, "
                "which has a default of all but context and collect."
            )
        PROTOCOLS.register(name, protocol)
        protocol.name = name
        return protocol

    return register


def require_random_episodes(settings: ProtocolSettings) -> None:
    """Refuse settings in which all collected episodes are random, so that none is left to adapt with."""
    require(
        settings.random_episodes < settings.episodes,
        "evaluation.random_episodes",
        settings.random_episodes,
        f"fewer than evaluation.episodes={settings.episodes}, so that an episode is left to adapt with",
    )
