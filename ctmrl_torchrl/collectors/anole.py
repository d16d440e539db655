"""The protocol ``anole``: searches candidate contexts with preference queries to a noisy oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from torch import Tensor

from ctmrl_torchrl.collectors.protocol import (
    AdaptationProtocol,
    ProtocolSettings,
    register_protocol,
    require_contexts,
)
from ctmrl_torchrl.collectors.run import AdaptationRun
from ctmrl_torchrl.modules.draws import uniform
from ctmrl_torchrl.modules.preference_search import (
    NoisyOracle,
    PreferenceSearch,
    candidates_wanted,
    fragment_predictions,
    fragment_values,
    rollout_predictions,
)
from ctmrl_torchrl.rules import require


@dataclass(frozen=True)
class FragmentSource:
    """Stored episode fragments that an oracle can compare.

    Args:
        draw (callable): ``(count, generator) -> [count, steps]`` transitions.
        returns (callable): ``(fragments [M, steps], task_ids [n]) -> [n, M]``, their returns in these tasks.
    """

    draw: Callable[[int, torch.Generator], TensorDictBase]
    returns: Callable[[TensorDictBase, Tensor], Tensor]


@register_protocol("anole")
class PreferenceSearchProtocol(AdaptationProtocol):
    """``anole``: queries a noisy oracle with comparisons and acts with the most consistent candidate.

    Candidates are contexts of training tasks. Each query splits them as evenly as possible, as measured by
    Berlekamp's volume; see
    :class:`~ctmrl_torchrl.modules.preference_search.PreferenceSearch`.

    - With ``fragments``, queries compare pairs of stored fragments. A candidate predicts the answer from the
      rewards of ``reward_predictor`` under it. No episodes are collected.
    - Without, for tasks that share one reward function, queries compare rollouts of the policy with two
      candidates. A candidate predicts that the closer one is better. The first collection uses a random
      candidate; each further collection adds a candidate and compares it with an earlier one.

    Before each measurement except the first, a part of the queries is asked: one, if there are more
    measurements than queries. Ties among candidates are broken at random.

    Args:
        candidates (Tensor): contexts ``[N, d]``.
        episodes (int): number of measured episodes. Defaults to 20.

    Keyword Args:
        queries (int): maximum number of queries. Defaults to 10; at most ``episodes - 2`` with rollouts.
        error_rate (float): fraction of wrong answers, known to the search. Defaults to 0.2.
        reward_predictor (TensorDictModule, optional): its last out-key is the reward ``[*, 1]``, given an
            observation, an action and a context; required with ``fragments``.
        fragments (FragmentSource, optional): see above.
        pool, pairs (int): number of stored fragments, and number of random pairs from which each query is
            chosen. Default to 200 and 100.

    Raises:
        ValueError: if there are fewer than two candidates, too few episodes, or fragments without a predictor.

    Source: ANOLE (NeurIPS 2022).

    Examples:
        >>> protocol = PreferenceSearchProtocol(torch.randn(18, 5), episodes=20)
        >>> protocol.name, protocol.queries, PreferenceSearchProtocol.encodes_unseen_tasks
        ('anole', 10, False)
    """

    description = "searches contexts by preferences"
    palette_index = 9
    encodes_unseen_tasks = False

    def __init__(
        self,
        candidates: Tensor,
        episodes: int = 20,
        *,
        queries: int = 10,
        error_rate: float = 0.2,
        reward_predictor: TensorDictModuleBase | None = None,
        fragments: FragmentSource | None = None,
        pool: int = 200,
        pairs: int = 100,
    ) -> None:
        super().__init__(episodes)
        self.candidates = require_contexts(candidates, 2, type(self).__name__, "candidates")
        least = 3 if fragments is None else 2
        if episodes < least:
            raise ValueError(
                f"PreferenceSearchProtocol: episodes={episodes} must be at least {least}, so that at least one "
                "query is possible."
            )
        if fragments is not None and reward_predictor is None:
            raise ValueError(
                "PreferenceSearchProtocol: queries about stored fragments need reward_predictor=, which predicts "
                "their returns under a candidate."
            )
        self.queries = queries if fragments is not None else min(queries, episodes - 2)
        self.error_rate = error_rate
        self.reward_predictor = reward_predictor
        self.fragments = fragments
        self.pool, self.pairs = pool, pairs

    @classmethod
    def from_settings(cls, settings: ProtocolSettings) -> PreferenceSearchProtocol:
        """The protocol with the current values of the settings.

        Raises:
            ConfigError: if there are no candidates.
        """
        options: Mapping[str, Any] = settings.options
        own, encoded = options.get("search_candidates"), settings.training_contexts or settings.candidates
        require(
            own is not None or encoded is not None,
            "evaluation.protocols",
            "anole",
            "anything without 'anole', which needs candidate contexts, but none were given",
        )
        wanted = candidates_wanted(0, settings.queries, settings.oracle_error)
        return cls(
            own(wanted) if own is not None else cast(Any, encoded)(),
            settings.episodes,
            queries=settings.queries,
            error_rate=settings.oracle_error,
            reward_predictor=options.get("reward_predictor"),
            fragments=options.get("fragments"),
        )

    @classmethod
    def check(cls, settings: ProtocolSettings) -> None:
        """Check that queries are possible and that candidates can predict their answers."""
        stored = "fragments" in settings.options
        require(
            not stored or "reward_predictor" in settings.options,
            "evaluation.protocols",
            "anole",
            "anything without 'anole', which needs a method that predicts rewards (e.g. method=anole): in this "
            "environment candidates are distinguished by the rewards that they predict",
        )
        least, what = (2, "an episode") if stored else (3, "two episodes to compare and one")
        require(
            settings.episodes >= least,
            "evaluation.episodes",
            settings.episodes,
            f"at least {least} under protocol 'anole', so that {what} is left to adapt with",
        )

    def reset(self, run: AdaptationRun) -> None:
        """Start a new search: all candidates are possible; samples the oracle's errors."""
        rows, device = run.task_ids.numel(), run.prior_context.device
        self.candidates = self.candidates.to(device)
        self._search = PreferenceSearch(
            rows, len(self.candidates), queries=self.queries, error_rate=self.error_rate, device=device
        )
        seed = int(torch.randint(2**31, (), generator=run.generator))
        # Repeats of a task get different errors, independent of other random numbers.
        numbers = [task * rows + row for row, task in enumerate(run.task_ids.tolist())]
        self._oracle = NoisyOracle(numbers, self.queries, seed=seed, error_rate=self.error_rate)
        self._collections = 0
        self._chosen = self._search.pick(run.generator)
        if self.fragments is None:
            self._played = torch.zeros(rows, len(self.candidates), dtype=torch.bool, device=device)
            self._returns = torch.zeros(rows, len(self.candidates), dtype=torch.float64, device=device)
            return
        drawn = self.fragments.draw(self.pool, run.generator)
        assert self.reward_predictor is not None  # required with fragments
        self._values = fragment_values(self.reward_predictor, drawn, self.candidates)
        self._truth = self.fragments.returns(drawn, run.task_ids).to(device)

    def context(self, run: AdaptationRun) -> Tensor:
        """The candidate with the most correct predictions; a random one before the first answer."""
        return self.candidates[self._chosen]

    def collect(self, run: AdaptationRun) -> None:
        """Ask the queries that are due before the next measurement."""
        self._collections += 1
        if self._search.asked == self.queries:
            return
        if self.fragments is None:
            self._compare_rollouts(run)
        else:
            spread = min(self.episodes - 1, self.queries)
            due = -(-self.queries * min(self._collections, spread) // spread)
            while self._search.asked < due:
                self._compare_fragments(run)
        if self._search.asked:
            self._chosen = self._search.pick(run.generator)

    def _compare_fragments(self, run: AdaptationRun) -> None:
        """Ask the best query among random pairs of fragments."""
        share = uniform((2, self.pairs), run.generator, self._values.device)
        count = self._values.shape[1]
        first = (share[0] * count).long()
        second = (first + 1 + (share[1] * (count - 1)).long()) % count
        predictions = fragment_predictions(self._values, first, second)
        asked = self._search.choose(predictions)
        truth = [self._truth.gather(1, each[asked].unsqueeze(1)).squeeze(1) for each in (first, second)]
        self._answered(run, predictions[asked], *truth)

    def _compare_rollouts(self, run: AdaptationRun) -> None:
        """Run one more candidate and compare it with an earlier one."""
        if not run.episodes:
            self._play(run, self._chosen)
            return
        earlier, later, predicted = self._best_comparison()
        if not self._played.all():
            self._play(run, later)
        truth = [self._returns.gather(1, each.unsqueeze(1)).squeeze(1) for each in (earlier, later)]
        self._answered(run, predicted, *truth)

    def _best_comparison(self) -> tuple[Tensor, Tensor, Tensor]:
        """The best query about a played and a fresh candidate: both ``[rows]``, and predictions ``[rows, N]``.

        Played candidates are looked at one by one: all pairs at once would need N times the memory.
        """
        rows, count = self._played.shape
        every = torch.arange(count, device=self._played.device)
        fresh = ~self._played | self._played.all(-1, keepdim=True)
        least = torch.full((rows,), torch.inf, dtype=torch.float64, device=every.device)
        earlier, later = (
            torch.zeros_like(least, dtype=torch.int64),
            torch.zeros_like(least, dtype=torch.int64),
        )
        predicted = torch.zeros_like(self._played)
        for first in self._played.any(0).nonzero():
            predictions = rollout_predictions(self.candidates, first.expand(count), every)
            allowed = self._played[:, first] & fresh & (every != first)
            volume = self._search.worst_volume(predictions).masked_fill(~allowed, torch.inf)
            second = volume.argmin(-1)
            smallest = volume.gather(1, second.unsqueeze(1)).squeeze(1)
            better = smallest < least
            least, later = torch.where(better, smallest, least), torch.where(better, second, later)
            earlier = torch.where(better, first, earlier)
            predicted = torch.where(better.unsqueeze(1), predictions[second], predicted)
        return earlier, later, predicted

    def _play(self, run: AdaptationRun, candidate: Tensor) -> None:
        """Run one episode of every row, each with its candidate."""
        run.add(run.play(self.candidates[candidate]))
        returns = run.returns[-1].to(self._returns)
        self._returns.scatter_(1, candidate.unsqueeze(1), returns.unsqueeze(1))
        self._played.scatter_(1, candidate.unsqueeze(1), True)

    def _answered(self, run: AdaptationRun, predicted: Tensor, first: Tensor, second: Tensor) -> None:
        """Let the oracle compare two returns ``[rows]`` and record its answer."""
        run.count_oracle_answers()
        self._search.observe(predicted, self._oracle(first, second))
