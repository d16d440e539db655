"""IDAQ's adaptation: contexts of training tasks first, then only episodes that a judge accepts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors.protocol import (
    AdaptationProtocol,
    ProtocolSettings,
    register_protocol,
    require_contexts,
)
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.modules.episode_gate import DiverseCandidates, EpisodeGate
from ctmrl_torchrl.rules import require

#: ``(episode [n, H], task_context [n, d]) -> [n]``: larger means closer to the training data
Judge = Callable[[TensorDictBase, Tensor], Tensor]
#: the judge available for every method
BY_RETURN = "return"
#: prefix of other judges' names in ``ProtocolSettings.options``
JUDGES = "judge_"


@register_protocol("idaq")
class InDistributionProtocol(AdaptationProtocol):
    """``idaq``: tries contexts of training tasks, then adds only accepted episodes to the evidence.

    In the reference stage, each episode uses the context of a training task that is as different as possible
    from earlier ones. The best of these episodes is the first evidence. In the update stage, an episode uses the
    context of the evidence. If its score exceeds the best so far it joins the evidence; otherwise evidence and
    context are reset to those of the best score. Measurements use the context with the best score. All episodes
    are deterministic.

    The score is the return, or minus the output of a model-based judge. With a model-based judge the best
    reference score remains the threshold, and measurements use the current context.

    Args:
        training_contexts (Tensor): ``[N, d]``, such as one context per training task.
        episodes (int): number of measured episodes. Defaults to 20.
        reference_episodes (int): collected episodes of the reference stage. Defaults to 10.
        draws (int): number of contexts from which each reference episode uses the most different one. Released
            5, and 20 on sparse point robots.
        judge (callable, optional): ``(episode [n, H], contexts [n, d]) -> [n]``, the score of an episode with
            these contexts. Defaults to the return.

    Raises:
        ValueError: if a number is not positive, or there are no contexts ``[N, d]``.

    Source: IDAQ (ICML 2023), as released.

    Examples:
        >>> import torch
        >>> InDistributionProtocol(torch.zeros(30, 4), episodes=20).reference_episodes
        10
    """

    description = "encodes only episodes like the data"
    palette_index = 7

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
        self.training_contexts = require_contexts(
            training_contexts, 1, type(self).__name__, "training_contexts"
        )
        self.reference_episodes, self.draws, self.judge = reference_episodes, draws, judge

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> InDistributionProtocol:
        """The protocol with the current contexts and judge of the settings.

        Raises:
            ConfigError: if there are none.
        """
        cls.check(settings)
        source: Any = settings.training_contexts or settings.candidates
        require(
            source is not None,
            "evaluation.protocols",
            cls.name,
            "anything without 'idaq', which needs contexts of training tasks, but none were given",
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
        """Check that reference episodes fit the budget and that the judge is available."""
        number = _reference_episodes(settings)
        given = settings.reference_episodes is not None
        require(
            1 <= number < settings.episodes,
            "evaluation.reference_episodes" if given else "evaluation.random_episodes",
            number,
            f"from 1 to below evaluation.episodes={settings.episodes} under protocol 'idaq', whose reference "
            "episodes are part of the collected ones"
            + ("" if given else " (this is the default; set evaluation.reference_episodes)"),
        )
        judges = [
            BY_RETURN,
            *(name.removeprefix(JUDGES) for name in settings.options if name.startswith(JUDGES)),
        ]
        require(
            settings.judge in judges,
            "evaluation.judge",
            settings.judge,
            f"one of {', '.join(judges)} under protocol 'idaq'; model-based judges need models "
            "that are trained beside the agent (part=outcome_models)",
        )

    def reset(self, run: AdaptationRun) -> None:
        """Reset to the state without tried contexts."""
        rows, size = run.prior_context.shape
        contexts = self.training_contexts.to(run.prior_context)
        self._proposals = DiverseCandidates(contexts, rows, draws=self.draws, generator=run.generator)
        collected = max(self.episodes - 1, 1)
        self.gate = EpisodeGate(rows, collected, size, ratchet=self.judge is None, like=run.prior_context)

    def _score(self, run: AdaptationRun, episode: TensorDictBase, context: Tensor) -> Tensor:
        if self.judge is None:
            return run.returns[-1].to(self.gate.best)
        score = self.judge(episode, context)
        if score.shape != self.gate.best.shape or score.isnan().any():
            found = "NaN" if score.isnan().any() else f"shape {list(score.shape)}"
            raise ValueError(
                f"InDistributionProtocol: the judge returned {found} for collected episode {len(run.episodes)}, "
                f"expected one score per row, {list(self.gate.best.shape)}; the more like the data, the larger."
            )
        return score.to(self.gate.best)

    def _inferred(self, run: AdaptationRun) -> Tensor:
        """Contexts ``[n, d]`` from each row's evidence; rows without evidence keep their fallback."""
        evidence = self.gate.evidence
        believed = evidence.any(0).nonzero().flatten().tolist()
        if not believed:
            return self.gate.best_context
        shown = [
            episode.copy().set("mask", episode.get("mask") & evidence[:, each, None])
            for each, episode in enumerate(run.episodes)
            if each in believed
        ]
        return run.encode(shown)

    def context(self, run: AdaptationRun) -> Tensor:
        """The context with the best score; with a model-based judge the current one."""
        if not run.episodes:
            return run.prior_context
        if self.gate.ratchet or len(run.episodes) <= self.reference_episodes:
            return self.gate.best_context
        return self.gate.final_context(self._inferred(run))

    def collect(self, run: AdaptationRun) -> None:
        """Collect a reference episode or an episode to be judged."""
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
