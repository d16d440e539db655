"""ANOLE's search for a task's context with preference queries to a noisy oracle.

The search is Ulam's game: candidates stand for tasks, and an oracle may give a few wrong answers. For every
candidate, Berlekamp's volume counts the future answer sequences that would not eliminate it.
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
    """The expected number of wrong answers: ``floor(rate * queries)``.

    Examples:
        >>> error_budget(10, 0.2), error_budget(10, 0.0)
        (2, 0)
    """
    return math.floor(error_rate * queries + 1e-6)


def candidates_wanted(training_tasks: int, queries: int, error_rate: float) -> int:
    """The number of candidates that the queries can distinguish, but at least the number of training tasks.

    Source: ANOLE (NeurIPS 2022), as released.

    Examples:
        >>> candidates_wanted(10, 10, 0.2), candidates_wanted(30, 10, 0.2)
        (18, 30)
    """
    budget = error_budget(queries, error_rate)
    return max(training_tasks, 2**queries // sum(math.comb(queries, k) for k in range(budget + 1)))


def volume_table(queries: int, most_errors: int) -> Tensor:
    """Berlekamp's weights: the number of ways in which ``n`` answers can contain at most ``m`` errors.

    Args:
        queries (int): the largest n. most_errors (int): the largest m.

    Returns:
        ``[queries + 1, most_errors + 2]`` float64, where column ``m + 1`` belongs to m. The first
        column, for an eliminated candidate, is 0. (The released code also has 0 for ``m > n``, which should be
        ``2^n``.)

    Source: Berlekamp (1968), as used by ANOLE (NeurIPS 2022).

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
    """A search among candidates with queries to an oracle that may be wrong, for all tasks in parallel.

    Every candidate predicts the answer to a query, true or false. Ask the query with the smallest worst-case
    volume and pass the answer to the search. Only predictions matter; they may come from fragments of stored
    data or from rollouts.

    Args:
        tasks, candidates (int): sizes.
        queries (int): K, total number of queries; released 10.
        error_rate (float): expected fraction of wrong answers; released 0.2. With 0 it is a binary search.
        device (torch.device, optional): device of the state.

    Attributes:
        asked (int): queries answered. agree (Tensor): ``[tasks, candidates]``, correctly predicted answers.
        budget (Tensor): ``[tasks]``, allowed errors; it grows if every candidate has made more.

    Raises:
        ValueError: if more than ``queries`` queries are asked.

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
        # A budget never exceeds the number of queries.
        self._table = volume_table(queries, queries).to(self.agree.device)

    def worst_volume(self, predictions: Tensor) -> Tensor:
        """The larger of the volumes after either answer, ``[tasks, P]``.

        Args:
            predictions (Tensor): boolean, ``[P, N]`` or ``[tasks, P, N]``.
        """
        if self.asked >= self.queries:
            raise ValueError(f"PreferenceSearch: all {self.queries} queries have been asked.")
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
        """The next query, ``[tasks]``; ties are resolved by order.

        Args:
            predictions (Tensor): see :meth:`worst_volume`.
            allowed (Tensor, optional): boolean ``[P]`` or ``[tasks, P]``, e.g. to exclude ties.
        """
        volume = self.worst_volume(predictions)
        if allowed is not None:
            volume = volume.masked_fill(~allowed, torch.inf)
        return volume.argmin(-1)

    def observe(self, predictions: Tensor, answer: Tensor) -> None:
        """Record the candidates' predictions ``[tasks, N]`` and the answer ``[tasks]``."""
        self.agree = self.agree + (predictions == answer.unsqueeze(-1))
        self.asked += 1
        self.budget = torch.maximum(self.budget, (self.asked - self.agree).amin(-1))

    def leaders(self) -> Tensor:
        """The candidates with the most correct predictions, boolean ``[tasks, N]``."""
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
        """The state of the search."""
        return {"agree": self.agree, "asked": self.asked, "budget": self.budget}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.agree, self.budget = state["agree"].clone(), state["budget"].clone()
        self.asked = int(state["asked"])


class NoisyOracle:
    """A noisy oracle that compares two returns; its errors are determined by task and seed.

    Args:
        task_ids (sequence of int): the queried tasks. queries (int): number of queries per task.
        seed (int): seeds a task's errors together with its id, so that all methods get the same errors.
        error_rate (float): fraction of wrong answers.
        sharpness (float, optional): if given, an answer is wrong with probability
            ``1 / (1 + exp(sharpness * |R1 - R2|))`` instead, so that errors are more likely for similar returns.

    Attributes:
        answers (int): answers given so far, over all tasks.

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
        """Answers given so far, over all tasks."""
        return self._asked * self._luck.shape[0]

    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """The oracle's (possibly wrong) answer whether the first return is larger, ``[tasks]`` boolean."""
        chance: Tensor | float = self.error_rate
        if self.sharpness is not None:
            chance = torch.sigmoid(-self.sharpness * (first - second).abs())
        wrong = self._luck[:, self._asked].to(first.device) < chance
        self._asked += 1
        return (first > second) ^ wrong


def fragment_predictions(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Candidates' predictions for pairs of fragments: whether the first is better; ``[*, P, N]`` boolean.

    Args:
        values (Tensor): ``[N, M]``, predicted returns of M fragments under N candidates.
        first, second (Tensor): ``[*, P]``, indices of fragments.

    Examples:
        >>> values = torch.tensor([[0.0, 1.0], [5.0, 2.0]])
        >>> fragment_predictions(values, torch.tensor([0]), torch.tensor([1]))
        tensor([[False,  True]])
    """
    return values.T[first] > values.T[second]


def rollout_predictions(candidates: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Candidates' predictions for pairs of rollouts with candidate contexts: the closer context is better.

    For families with a shared reward function, where fragments of stored data carry no task information. Nearby
    contexts must belong to similar tasks, as in FOCAL.

    Args:
        candidates (Tensor): ``[N, d]``. first, second (Tensor): ``[*, P]``, indices of candidates.

    Returns:
        ``[*, P, N]`` boolean: candidate n predicts a higher return for the first of the pair.

    Examples:
        >>> line = torch.tensor([[0.0], [1.0], [5.0]])
        >>> rollout_predictions(line, torch.tensor([0]), torch.tensor([2]))
        tensor([[ True,  True, False]])
    """
    # Products, the default for more than 25 rows, lose the digits of candidates that are close together.
    distance = torch.cdist(candidates, candidates, compute_mode="donot_use_mm_for_euclid_dist")
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
    """Returns of fragments under each candidate, predicted by a context-conditioned reward predictor.

    Args:
        reward_predictor (TensorDictModule): its last out-key is the reward ``[*, 1]``.
        fragments (TensorDictBase): ``[M, steps]``, with the predictor's other inputs.
        candidates (Tensor): ``[N, d]``.
        task_context, mask (NestedKey): the predictor's context key; optional mask of valid steps.

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
    for candidate in candidates:  # one by one: all pairs at once would need N times the memory
        td = TensorDict(given | {task_context: candidate.expand(*lead, candidate.shape[-1])}, lead)
        reward = reward_predictor(td).get(reward_predictor.out_keys[-1]).squeeze(-1)
        reward = reward if counts is None else torch.where(counts, reward, torch.zeros_like(reward))
        values.append(reward.sum(-1))
    return torch.stack(values)
