"""ANOLE's search: find a task's context by asking a noisy oracle which of two things is better.

The game is Ulam's: candidates stand for tasks, an oracle may err a few times, and Berlekamp's volume counts
for every candidate the ways in which the answers still to come could leave it standing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.draws import uniform
from ctmrl_torchrl.modules.keys import read


def error_budget(queries: int, error_rate: float) -> int:
    """How many of the answers are expected to be wrong: ``floor(rate * queries)``.

    Examples:
        >>> error_budget(10, 0.2), error_budget(10, 0.0)
        (2, 0)
    """
    return math.floor(error_rate * queries + 1e-6)


def candidates_wanted(training_tasks: int, queries: int, error_rate: float) -> int:
    """How many candidates the queries can tell apart, but no fewer than there are training tasks.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> candidates_wanted(10, 10, 0.2), candidates_wanted(30, 10, 0.2)
        (18, 30)
    """
    budget = error_budget(queries, error_rate)
    return max(training_tasks, 2**queries // sum(math.comb(queries, k) for k in range(budget + 1)))


def volume_table(queries: int, most_errors: int) -> Tensor:
    """Berlekamp's weights: ways in which ``n`` answers can hold at most ``m`` errors.

    Args:
        queries (int): the largest n. most_errors (int): the largest m.

    Returns:
        ``[queries + 1, most_errors + 2]`` float64, whose column ``m + 1`` is m; the first, for a candidate
        with no error left to make, is 0. (The release also has 0 where ``m > n``, which should be ``2^n``.)

    Source: Berlekamp (1968), as ANOLE (NeurIPS 2022) uses it.

    Examples:
        >>> volume_table(2, 2).tolist()
        [[0.0, 1.0, 1.0, 1.0], [0.0, 1.0, 2.0, 2.0], [0.0, 1.0, 3.0, 4.0]]
    """
    ways = [
        [0.0] + [float(sum(math.comb(n, k) for k in range(min(m, n) + 1))) for m in range(most_errors + 1)]
        for n in range(queries + 1)
    ]
    return torch.tensor(ways, dtype=torch.float64)


class PreferenceSearch:
    """A search among candidates with questions that an oracle may answer wrongly, for all tasks side by side.

    A question is one on which every candidate predicts an answer, true or false. Ask the one that leaves the
    smallest volume in the worse case; tell the search what was answered. Only predictions matter: they may
    come from fragments of stored data or from rollouts.

    Args:
        tasks, candidates (int): sizes.
        queries (int): K, questions in all; released 10.
        error_rate (float): share of answers expected to be wrong; released 0.2. With 0 it is plain halving.
        device (torch.device, optional): where it counts.

    Attributes:
        asked (int): questions answered. agree (Tensor): ``[tasks, candidates]``, answers as predicted.
        budget (Tensor): ``[tasks]``, errors allowed; it grows where every candidate has made more.

    Raises:
        ValueError: if more questions are asked than announced.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> truth, candidates = 5, torch.arange(8)
        >>> questions = candidates.unsqueeze(0) >= torch.arange(1, 8).unsqueeze(-1)
        >>> search = PreferenceSearch(tasks=1, candidates=8, queries=3, error_rate=0.0)
        >>> for _ in range(3):
        ...     question = questions[search.choose(questions)]
        ...     search.observe(question, answer=question[:, truth])
        >>> search.leaders().nonzero()[:, 1].tolist()
        [5]
    """

    def __init__(
        self,
        tasks: int,
        candidates: int,
        *,
        queries: int = 10,
        error_rate: float = 0.2,
        device: torch.device | None = None,
    ) -> None:
        self.queries, self.asked = queries, 0
        self.agree = torch.zeros(tasks, candidates, dtype=torch.int64, device=device)
        self.budget = torch.full((tasks,), error_budget(queries, error_rate), device=device)
        # A budget never grows beyond the number of questions.
        self._table = volume_table(queries, queries).to(self.agree.device)

    def worst_volume(self, predictions: Tensor) -> Tensor:
        """The larger of the volumes that either answer would leave, ``[tasks, P]``.

        Args:
            predictions (Tensor): boolean, ``[P, N]`` or ``[tasks, P, N]``.
        """
        if self.asked >= self.queries:
            raise ValueError(f"PreferenceSearch: all {self.queries} questions have been asked.")
        left = self._table[self.queries - self.asked - 1]
        allowed = self.budget.unsqueeze(-1) - (self.asked - self.agree)  # errors a candidate may still make
        right, wrong = (left[(allowed - slip + 1).clamp(0)] for slip in (0, 1))
        believed = predictions.to(left.dtype)
        gain = torch.einsum(
            "...pn,tn->tp" if predictions.ndim == 2 else "tpn,tn->tp", believed, right - wrong
        )
        if_true = wrong.sum(-1, keepdim=True) + gain
        if_false = right.sum(-1, keepdim=True) - gain
        return torch.maximum(if_true, if_false)

    def choose(self, predictions: Tensor, allowed: Tensor | None = None) -> Tensor:
        """The question to ask, ``[tasks]``; the first of those that are equally good.

        Args:
            predictions (Tensor): as for :meth:`worst_volume`.
            allowed (Tensor, optional): boolean ``[P]`` or ``[tasks, P]``, e.g. without pairs that tie.
        """
        volume = self.worst_volume(predictions)
        if allowed is not None:
            volume = volume.masked_fill(~allowed, torch.inf)
        return volume.argmin(-1)

    def observe(self, predictions: Tensor, answer: Tensor) -> None:
        """Take note of what candidates had predicted, ``[tasks, N]``, and of the answer, ``[tasks]``."""
        self.agree = self.agree + (predictions == answer.unsqueeze(-1))
        self.asked += 1
        self.budget = torch.maximum(self.budget, (self.asked - self.agree).amin(-1))

    def leaders(self) -> Tensor:
        """The candidates that most answers agree with, boolean ``[tasks, N]``."""
        return self.agree == self.agree.amax(-1, keepdim=True)

    def pick(self, generator: torch.Generator | None = None) -> Tensor:
        """One of the leaders at random, ``[tasks]``."""
        luck = uniform(self.agree.shape, generator, self.agree.device)
        return luck.masked_fill(~self.leaders(), -1.0).argmax(-1)

    def mean_of_leaders(self, candidates: Tensor) -> Tensor:
        """The mean context ``[tasks, d]`` of the leaders among candidates ``[N, d]``."""
        weights = self.leaders().to(candidates.dtype)
        return weights @ candidates / weights.sum(-1, keepdim=True)

    def state_dict(self) -> dict[str, Any]:
        """Where the search stands."""
        return {"agree": self.agree, "asked": self.asked, "budget": self.budget}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.agree, self.budget = state["agree"].clone(), state["budget"].clone()
        self.asked = int(state["asked"])


class NoisyOracle:
    """Says which of two returns is larger, and is sometimes wrong; the errors are fixed by task and seed.

    Args:
        task_ids (sequence of int): the tasks asked about. queries (int): how often each is.
        seed (int): with a task's number it decides that task's errors, so that methods meet the same ones.
        error_rate (float): share of wrong answers.
        sharpness (float, optional): if given, an answer is wrong with probability
            ``1 / (1 + exp(sharpness * |R1 - R2|))`` instead: the closer, the likelier.

    Attributes:
        answers (int): given so far, all tasks together.

    Source: ANOLE (NeurIPS 2022).

    Examples:
        >>> oracle = NoisyOracle([3, 8], queries=10, seed=0, error_rate=0.0)
        >>> oracle(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0])), oracle.answers
        (tensor([ True, False]), 2)
    """

    def __init__(
        self,
        task_ids: Sequence[int],
        queries: int,
        *,
        seed: int,
        error_rate: float = 0.2,
        sharpness: float | None = None,
    ) -> None:
        self.error_rate, self.sharpness = error_rate, sharpness
        rows = []
        for task in task_ids:
            generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + int(task))
            rows.append(torch.rand(queries, generator=generator))
        self._luck, self._asked = torch.stack(rows), 0

    @property
    def answers(self) -> int:
        """Answers given, all tasks together."""
        return self._asked * self._luck.shape[0]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Whether the first return is the larger one, ``[tasks]`` boolean, as far as the oracle is right."""
        chance: Tensor | float = self.error_rate
        if self.sharpness is not None:
            chance = torch.sigmoid(-self.sharpness * (first - second).abs())
        wrong = self._luck[:, self._asked].to(first.device) < chance
        self._asked += 1
        return (first > second) ^ wrong


def fragment_predictions(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What candidates say of pairs of fragments: whether the first is worth more; ``[*, P, N]`` boolean.

    Args:
        values (Tensor): ``[N, M]``, of a pool of M fragments under N candidates.
        first, second (Tensor): ``[*, P]``, numbers of fragments.

    Examples:
        >>> values = torch.tensor([[0.0, 1.0], [5.0, 2.0]])
        >>> fragment_predictions(values, torch.tensor([0]), torch.tensor([1]))
        tensor([[False,  True]])
    """
    return values.T[first] > values.T[second]


def rollout_predictions(candidates: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """What candidates say of pairs of rollouts, one with each candidate's context: the nearer one is better.

    For families with one reward function, where fragments of stored data say nothing about the task. Contexts
    must be such that near ones belong to like tasks, as FOCAL's do.

    Args:
        candidates (Tensor): ``[N, d]``. first, second (Tensor): ``[*, P]``, numbers of candidates.

    Returns:
        ``[*, P, N]`` boolean: candidate n says that the first of the pair earns more.

    Examples:
        >>> line = torch.tensor([[0.0], [1.0], [5.0]])
        >>> rollout_predictions(line, torch.tensor([0]), torch.tensor([2]))
        tensor([[ True,  True, False]])
    """
    distance = torch.cdist(candidates, candidates)
    return distance[first] < distance[second]


@torch.no_grad()
def fragment_values(
    reward_predictor: TensorDictModuleBase,
    fragments: TensorDictBase,
    candidates: Tensor,
    *,
    task_context: NestedKey = "task_context",
    mask: NestedKey = "mask",
) -> Tensor:
    """What any reward predictor that reads a context says fragments are worth, to search with it.

    Args:
        reward_predictor (TensorDictModule): its last out-key is the reward ``[*, 1]``.
        fragments (TensorDictBase): ``[M, steps]``, with what it reads besides the context.
        candidates (Tensor): ``[N, d]``.
        task_context, mask (NestedKey): the context that the predictor reads; the steps that count, if given.

    Returns:
        ``[N, M]``, summed over steps; for :func:`fragment_predictions`.

    Examples:
        >>> from ctmrl_torchrl.modules import make_reward_predictor
        >>> predictor = make_reward_predictor(observation_dim=3, action_dim=2, context_dim=4)
        >>> tensors = {"observation": torch.zeros(7, 6, 3), "action": torch.zeros(7, 6, 2)}
        >>> fragment_values(predictor, TensorDict(tensors, [7, 6]), torch.zeros(5, 4)).shape
        torch.Size([5, 7])
    """
    keys = [key for key in reward_predictor.in_keys if key != task_context]
    given, values = {key: read(fragments, key, "fragment_values") for key in keys}, []
    lead = next(iter(given.values())).shape[:-1] if given else fragments.batch_size
    counts = fragments.get(mask, None)
    for candidate in candidates:  # one at a time: all pairs at once would be N times the pool
        td = TensorDict(given | {task_context: candidate.expand(*lead, candidate.shape[-1])}, lead)
        reward = reward_predictor(td).get(reward_predictor.out_keys[-1]).squeeze(-1)
        reward = reward if counts is None else torch.where(counts, reward, torch.zeros_like(reward))
        values.append(reward.sum(-1))
    return torch.stack(values)
