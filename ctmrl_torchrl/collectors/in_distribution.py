"""IDAQ's adaptation: contexts of training tasks first, and only episodes that a judge believes afterwards."""

from __future__ import annotations

from collections.abc import Callable

from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors.protocol import AdaptationProtocol, ProtocolSettings, register_protocol
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.modules.episode_gate import DiverseCandidates, EpisodeGate
from ctmrl_torchrl.rules import require

#: ``(episode [n, H], task_context [n, d]) -> [n]``: the more, the more like the training data
Judge = Callable[[TensorDictBase, Tensor], Tensor]
#: the judge that every method has
BY_RETURN = "return"
#: what the names of further judges begin with among ``ProtocolSettings.options``
JUDGES = "judge_"


@register_protocol("idaq")
class InDistributionProtocol(AdaptationProtocol):
    """``idaq``: plays contexts of training tasks, then adds only episodes that are believed.

    In the reference stage each episode is played with the context of a training task, as different as possible
    from those tried before. The best of them is the first evidence. In the update stage an episode is played
    with the context of the evidence; if it scores higher than the best so far it joins the evidence, otherwise
    evidence and context go back to where the best score was. Measurements use the context with the best score.
    All episodes are deterministic.

    The score is the return, or minus what a judge by models says. Such a judge keeps the best reference score
    as its threshold for good, and measurements use the present context.

    Args:
        training_contexts (Tensor): ``[N, d]``, such as one context per training task.
        episodes (int): measured episodes in all. Defaults to 20.
        reference_episodes (int): collected episodes of the reference stage. Defaults to 10.
        draws (int): contexts among which each reference episode takes the most different. Released 5, on sparse
            point robots 20.
        judge (callable, optional): ``(episode [n, H], contexts [n, d]) -> [n]``, the score of an episode that
            was played with these contexts. Defaults to the return.

    Raises:
        ValueError: if a number is not positive.

    Source: IDAQ (ICML 2023), as released.

    Examples:
        >>> import torch
        >>> InDistributionProtocol(torch.zeros(30, 4), episodes=20).reference_episodes
        10
    """

    def __init__(
        self,
        training_contexts: Tensor,
        episodes: int = 20,
        reference_episodes: int = 10,
        *,
        draws: int = 5,
        judge: Judge | None = None,
    ) -> None:
        super().__init__(episodes)
        for name, value in (("reference_episodes", reference_episodes), ("draws", draws)):
            if value < 1:
                raise ValueError(f"InDistributionProtocol: {name}={value} must be at least 1.")
        self.training_contexts = training_contexts.detach()
        self.reference_episodes, self.draws, self.judge = reference_episodes, draws, judge

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> InDistributionProtocol:
        """The protocol with the contexts and the judge that the settings give now.

        Raises:
            ConfigError: if they give none.
        """
        cls.check(settings)
        source = settings.training_contexts or settings.candidates
        require(
            source is not None,
            "evaluation.protocols",
            cls.name,
            "anything without 'idaq', which plays contexts of training tasks, and none were given",
        )
        return cls(
            source(),
            settings.episodes,
            _reference_episodes(settings),
            draws=settings.candidate_draws,
            judge=None if settings.judge == BY_RETURN else settings.options[JUDGES + settings.judge],
        )

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Reference episodes fit the budget, and somebody brings the judge along."""
        number = _reference_episodes(settings)
        given = settings.reference_episodes is not None
        require(
            1 <= number < settings.episodes,
            "evaluation.reference_episodes" if given else "evaluation.random_episodes",
            number,
            f"from 1 to below evaluation.episodes={settings.episodes} under protocol 'idaq', whose reference "
            "episodes are among those collected"
            + ("" if given else " (evaluation.reference_episodes says how many; by default so many)"),
        )
        judges = [
            BY_RETURN,
            *(name.removeprefix(JUDGES) for name in settings.options if name.startswith(JUDGES)),
        ]
        require(
            settings.judge in judges,
            "evaluation.judge",
            settings.judge,
            f"one of {', '.join(judges)} under protocol 'idaq'; judges by models are brought along by a method "
            "that trains them (method=idaq representation.ensemble=true)",
        )

    def reset(self, run: AdaptationRun) -> None:
        """Nothing has been tried yet."""
        rows, size = run.prior_context.shape
        contexts = self.training_contexts.to(run.prior_context)
        self._proposals = DiverseCandidates(contexts, rows, draws=self.draws, generator=run.generator)
        collected = max(self.episodes - 1, 1)
        self.gate = EpisodeGate(rows, collected, size, ratchet=self.judge is None, like=run.prior_context)

    def _score(self, run: AdaptationRun, episode: TensorDictBase, context: Tensor) -> Tensor:
        score = run.returns[-1] if self.judge is None else self.judge(episode, context)
        return score.to(self.gate.best)

    def _inferred(self, run: AdaptationRun) -> Tensor:
        """Contexts ``[n, d]`` of every row's own evidence; what a row without any falls back on is kept."""
        evidence = self.gate.evidence
        believed = evidence.any(0).nonzero().flatten().tolist()
        if not believed:
            return self.gate.best_context
        shown = [
            run.episodes[each].copy().set("mask", run.episodes[each]["mask"] & evidence[:, each, None])
            for each in believed
        ]
        return run.encode(shown)

    def context(self, run: AdaptationRun) -> Tensor:
        """The context with the best score; under a judge by models the present one."""
        if not run.episodes:
            return run.prior_context
        if self.gate.ratchet or len(run.episodes) <= self.reference_episodes:
            return self.gate.best_context
        return self.gate.final_context(self._inferred(run))

    def collect(self, run: AdaptationRun) -> None:
        """Play a reference episode, or one that is judged."""
        number = len(run.episodes)
        reference = number < self.reference_episodes
        context = self._proposals.propose() if reference else self.gate.next_context(self._inferred(run))
        run.add(run.play(context))
        score = self._score(run, run.episodes[-1], context)
        if not reference:
            self.gate.observe_update(number, score, context)
            return
        self.gate.observe_reference(number, score, context)
        if number + 1 == self.reference_episodes:
            self.gate.begin_update()


def _reference_episodes(settings: ProtocolSettings) -> int:
    given = settings.reference_episodes
    return settings.random_episodes if given is None else given
