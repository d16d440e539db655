"""The base class of adaptation protocols, their registry, and the settings from which all are created."""

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
    """The settings from which every protocol of a meta-test is created.

    Args:
        episodes (int): measured episodes. Defaults to 20.
        random_episodes (int): number of collected episodes with uniformly random actions, for protocols that
            use them. Defaults to 10.
        prior_episodes (int): measured episodes before contexts are inferred, under ``np_csro``. Defaults to 2.
        reference_episodes (int, optional): collected episodes with contexts of training tasks, under
            ``idaq``. Defaults to ``random_episodes``.
        candidate_draws (int): candidates from which ``idaq`` uses the most different one. Defaults to 5.
        judge (str): score by which ``idaq`` accepts an episode: ``return``, or a name for which ``options``
            contains ``judge_NAME``, a function of an episode ``[n, H]`` and its contexts ``[n, d]``.
        training_contexts (callable, optional): returns one context per training task ``[tasks, d]``; called
            when a meta-test begins.
        candidates (callable, optional): returns the contexts ``[N, d]`` that ``codes`` tries in order; called
            when a meta-test begins, so that they belong to the current agent.
        num_candidates (int, optional): N, if known before the agent exists.
        queries (int): number of oracle queries, for protocols that use them. Defaults to 10.
        oracle_error (float): fraction of wrong oracle answers. Defaults to 0.2.
        encodes_unseen_tasks (bool): whether the encoder can encode episodes of unseen tasks. Defaults to True.
        options (mapping): other settings by name. Before the agent exists the values may be None, and only
            the names matter.
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
    encodes_unseen_tasks: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)


class AdaptationProtocol:
    """Defines how evidence about an unseen task is collected and which context is used for acting.

    :class:`~ctmrl_torchrl.collectors.MetaTestCollector` measures ``episodes`` episodes, and between two
    measurements the protocol collects one. A protocol must define :meth:`context` and, unless it measures only
    one episode, :meth:`collect`. The decorator :func:`register_protocol` makes it available in
    ``evaluation.protocols``.

    Args:
        episodes (int): number of measured episodes. Defaults to 20.


    Attributes:
        name (str): its name in the registry, set by :func:`register_protocol`.
        needs_offline_data (bool): whether it samples episodes from the test tasks' datasets.
        needs_candidates (bool): whether it uses ``ProtocolSettings.candidates``.
        needs_task_encoder (bool): whether it needs an encoder that only reads the task id.
        encodes_unseen_tasks (bool): whether it needs an encoder that can encode unseen tasks; false for a
            protocol that never encodes anything.
        keeps_episodes (bool): whether all collected episodes are kept until the end; the memory estimate counts
            them.
        description (str): one short sentence without a subject, shown next to the curve in figures.
        palette_index (int or None): its place in the colors of figures, then in the same colors with another
            dash; if it is taken, the next dash of that color. None takes the next free place.

    Raises:
        ValueError: if ``episodes`` is not positive.

    Examples:
        A custom protocol that only uses the latest random episode:

        >>> @register_protocol("last")
        ... class LastEpisode(AdaptationProtocol):
        ...     description = "encodes the latest random episode"
        ...
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
    keeps_episodes: ClassVar[bool] = False
    description: ClassVar[str] = ""
    palette_index: ClassVar[int | None] = None

    def __init__(self, episodes: int = 20) -> None:
        if episodes < 1:
            raise ValueError(f"{type(self).__name__}: episodes={episodes} must be at least 1.")
        self.episodes = episodes

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> AdaptationProtocol:
        """Create the protocol from these settings."""
        return cls(settings.episodes)

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Reject settings that the protocol does not support; called before the agent exists.

        Raises:
            ConfigError: with the field of ``evaluation``.
        """

    def reset(self, run: AdaptationRun) -> None:
        """Reset the state at the beginning of a meta-test."""

    def context(self, run: AdaptationRun) -> Tensor:
        """The contexts ``[n, d]`` for acting, given the evidence so far."""
        raise TypeError(f"{type(self).__name__} must define context(run), which returns contexts [n, d].")

    def collect(self, run: AdaptationRun) -> None:
        """Collect one episode and add it to the evidence."""
        raise TypeError(
            f"{type(self).__name__} measures {self.episodes} episodes, so it must define collect(run), which "
            "adds an episode to the evidence: run.add(run.play_randomly())."
        )


#: adaptation protocols by name, as in ``evaluation.protocols``
PROTOCOLS: Registry[type[AdaptationProtocol]] = Registry("adaptation protocol")

P = TypeVar("P", bound=type)


def register_protocol(name: str) -> Callable[[P], P]:
    """Class decorator that registers a protocol for ``evaluation.protocols`` and sets its ``name``.

    Args:
        name (str): name of the choice.

    Raises:
        TypeError: if the class lacks one of the methods of :class:`AdaptationProtocol`.
        ValueError: if the name is already registered.
    """

    def register(protocol: P) -> P:
        methods = ("from_settings", "check", "reset", "context", "collect")
        missing = [method for method in methods if not callable(getattr(protocol, method, None))]
        if missing:
            raise TypeError(
                f"The adaptation protocol {name!r} lacks {', '.join(missing)}; subclass AdaptationProtocol, "
                "which has defaults for all methods except context and collect."
            )
        PROTOCOLS.register(name, protocol)
        protocol.name = name
        return protocol

    return register


def require_random_episodes(settings: ProtocolSettings) -> None:
    """Reject settings in which all collected episodes are random, so that none is left for adaptation."""
    require(
        settings.random_episodes < settings.episodes,
        "evaluation.random_episodes",
        settings.random_episodes,
        f"fewer than evaluation.episodes={settings.episodes}, so that an episode is left to adapt with",
    )


def require_contexts(contexts: Tensor, least: int, reader: str, name: str) -> Tensor:
    """Contexts of a protocol, detached; they must be ``[N, d]`` with at least ``least`` rows.

    Raises:
        ValueError: otherwise, with the protocol and the argument.

    Examples:
        >>> import torch
        >>> require_contexts(torch.zeros(8, 20), 1, "CandidatesProtocol", "candidates").shape
        torch.Size([8, 20])
    """
    found = list(contexts.shape) if isinstance(contexts, Tensor) else contexts
    if not isinstance(contexts, Tensor) or contexts.ndim != 2 or contexts.shape[0] < least:
        raise ValueError(
            f"{reader}: {name} must be contexts [N, d], at least {least} of them, one in each row; got {found}."
        )
    return contexts.detach()
