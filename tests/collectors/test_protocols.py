from __future__ import annotations

import pytest
import torch
from hand_made_agents import Counts, GoalFinder, MarkedActor, Walker, make_collector, walk_return

from ctmrl_torchrl.collectors import (
    CandidatesProtocol,
    InDistributionProtocol,
    NonPriorProtocol,
    OfflineProtocol,
    OnlineProtocol,
    PreferenceSearchProtocol,
    RefineProtocol,
)
from ctmrl_torchrl.collectors.selection import best_episodes
from ctmrl_torchrl.envs import make_task_set

CODES = torch.tensor([[-0.5, 0.5], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.0]])
TASKS = (2, 6, 11)


class Recording(CandidatesProtocol):
    """Keeps what was played and what it brought."""

    def reset(self, run):
        super().reset(run)
        self.proposals, self.run = [], run

    def proposal(self, run):
        self.proposals.append(super().proposal(run))
        return self.proposals[-1]


class Wrong(GoalFinder):
    """Finds the goal but for an error of a size and direction that the episodes decide."""

    def forward(self, tensordict):
        found = super().forward(tensordict)["task_context"]
        sway = tensordict["context", "observation"].mean(1)
        return tensordict.set("task_context", found + 0.5 * sway)


def played(episodes, encoder=GoalFinder, **options):
    protocol = Recording(CODES, episodes=episodes, **options)
    result = make_collector(encoder(), Walker(), TASKS).run(protocol)
    return protocol, result, torch.stack(protocol.run.returns, 1)


def test_codes_are_played_once_each_in_order_and_the_best_is_kept():
    protocol, result, returns = played(episodes=len(CODES) + 1)
    assert torch.equal(torch.stack(protocol.proposals), CODES[:, None].expand(4, len(TASKS), 2))
    goals = make_task_set("point_robot").parameters[torch.tensor(TASKS)].float()
    expected = torch.tensor([[walk_return(code, goal) for code in CODES] for goal in goals])
    torch.testing.assert_close(returns, expected, atol=1e-4, rtol=1e-5)
    # measured before anything: the prior; after k codes: the best of them
    torch.testing.assert_close(result["returns"][:, 1:], expected.cummax(1).values, atol=1e-4, rtol=1e-5)
    assert torch.equal(result["task_context"][:, -1], CODES[expected.argmax(1)])
    assert not result["task_context"][:, 0].any()


def test_codes_then_adapts_from_what_the_episodes_told():
    protocol, result, returns = played(episodes=9, encoder=Wrong, step=0.5, share=0.4)
    assert len(protocol.proposals) == 8
    torch.testing.assert_close(result["returns"][:, -1], returns.amax(1))
    run = protocol.run
    torch.testing.assert_close(protocol.proposals[4], run.encode(run.episodes[:4]))
    best = torch.stack(run.episodes, 1)[torch.arange(3), returns[:, :5].argmax(1)]
    torch.testing.assert_close(protocol.proposals[5], run.encode([best]))
    # then shifts of the best context so far, by two of the six (seven) episodes
    generator = torch.Generator().manual_seed(0)
    for number in (6, 7):
        drawn = torch.rand(3, number, generator=generator).argsort(1)[:, :2]
        part = [torch.stack(run.episodes, 1)[torch.arange(3), drawn[:, k]] for k in range(2)]
        shift = run.encode(part) - run.encode(run.episodes[:number])
        best = torch.stack(protocol.proposals[:number], 1)[torch.arange(3), returns[:, :number].argmax(1)]
        torch.testing.assert_close(protocol.proposals[number], best + 0.5 * shift)
        assert shift.abs().max() > 1e-3


def test_best_episodes_are_each_rows_own():
    run = make_collector(GoalFinder(), Walker(), TASKS)
    protocol = Recording(CODES, episodes=5)
    run.run(protocol)
    state = protocol.run
    returns = torch.stack(state.returns, 1)
    first, second = best_episodes(state, 2)
    torch.testing.assert_close(state.episode_return(first), returns.amax(1))
    torch.testing.assert_close(state.episode_return(second), returns.sort(1).values[:, -2])
    assert len(best_episodes(state, 99)) == len(CODES)


def test_a_protocol_can_be_run_twice():
    protocol = CandidatesProtocol(CODES, episodes=6)
    collector = make_collector(GoalFinder(), Walker(), TASKS)
    first, again = collector.run(protocol), collector.run(protocol)
    assert torch.equal(first["returns"], again["returns"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: CandidatesProtocol(CODES, episodes=4),
            "each of 4 candidates once needs more than 4 episodes",
        ),
        (
            lambda: CandidatesProtocol(CODES, episodes=9, share=0.0),
            "CandidatesProtocol: share=0.0 must lie between",
        ),
        (lambda: OnlineProtocol(0), "OnlineProtocol: episodes=0"),
        (lambda: OfflineProtocol(-1), "OfflineProtocol: episodes=-1"),
        (lambda: NonPriorProtocol(5, 0), "random_episodes=0 must be at least 1"),
        (lambda: RefineProtocol(5, 1), "random_episodes=1 must be at least 2"),
        (lambda: RefineProtocol(5, share=1.0), "RefineProtocol: share=1.0 must lie between 0 and 1"),
    ],
)
def test_wrong_budgets_are_clear_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_names_are_those_of_the_configuration():
    protocols = (OfflineProtocol, OnlineProtocol, NonPriorProtocol, RefineProtocol, CandidatesProtocol)
    assert tuple(cls.name for cls in protocols) == ("offline", "online", "np", "np_refine", "codes")


def test_fewer_episodes_than_random_ones_is_all_random():
    run = make_collector(Counts(), MarkedActor()).run(NonPriorProtocol(episodes=3, random_episodes=10))
    assert run["task_context"][0].tolist() == [[0, 0, 0], [1, 0, 0], [2, 0, 0]]


def test_refining_keeps_what_returned_most_and_judges_without_believing():
    collector = make_collector(Wrong(), Walker(), TASKS)
    kept = {}

    class Kept(RefineProtocol):
        def reset(self, run):
            super().reset(run)
            kept["run"] = run

    result = collector.run(Kept(episodes=12, random_episodes=4, share=0.7), seed=3)
    plain = collector.run(NonPriorProtocol(episodes=5, random_episodes=4), seed=3)
    # the same as np until the random episodes are over, then never worse than the best tried so far
    torch.testing.assert_close(result["returns"][:, :5], plain["returns"][:, :5])
    tried = torch.stack(kept["run"].returns, 1)[:, 4:]
    torch.testing.assert_close(tried[:, 0], plain["returns"][:, 4])
    torch.testing.assert_close(result["returns"][:, 5:], tried.cummax(1).values)
    assert (result["returns"][:, -1] > plain["returns"][:, -1] + 1e-3).any()


def test_the_shifts_of_refining_are_those_of_random_subsets():
    class Listed(RefineProtocol):
        def _try(self, run, proposal):
            self.tried = [*getattr(self, "tried", []), proposal]
            super()._try(run, proposal)

    protocol = Listed(episodes=8, random_episodes=3, share=0.4, step=2.0)
    collector = make_collector(Wrong(), Walker(), TASKS)
    runs = []
    reset = protocol.reset
    protocol.reset = lambda run: (runs.append(run), reset(run))[1]
    collector.run(protocol, seed=1)
    run = runs[0]
    joint = run.encode(run.episodes[:3])
    torch.testing.assert_close(protocol.tried[0], joint)
    shifts = torch.stack([2.0 * (run.encode([episode]) - joint) for episode in run.episodes[:3]])
    bases = torch.stack(protocol.tried[:-1])  # the best so far is among those tried before
    for number, proposal in enumerate(protocol.tried[1:], start=1):
        apart = proposal - bases[:number, None] - shifts[None]  # [tried before, subsets, rows, d]
        assert (apart.abs().amax(-1) < 1e-4).flatten(0, 1).any(0).all()


def test_every_row_draws_shifts_of_its_own():
    """Repeats of a task on a deterministic environment are otherwise one and the same trial."""
    codes = torch.tensor([[0.9, 0.1], [-0.9, 0.1], [0.1, 0.9]])
    run = make_collector(Wrong(), Walker(), (2,) * 8).run(CandidatesProtocol(codes, episodes=12), seed=0)
    assert (run["returns"][:, :4] == run["returns"][:1, :4]).all()  # the codes are the same for all
    assert run["task_context"][:, -1].unique(dim=0).shape[0] > 1


class Recorded:
    """Stands for a run and records what kind of episode was collected, and how."""

    def __init__(self):
        self.episodes, self.prior_context = [], "prior"

    def add(self, episode):
        self.episodes.append(episode)

    def encode(self, episodes):
        return f"of {len(episodes)}"

    def play_randomly(self):
        return "random"

    def play(self, context, *, stochastic):
        return ("own", context, stochastic)


def test_np_collects_as_many_random_episodes_as_asked_and_then_its_own():
    run, protocol = Recorded(), NonPriorProtocol(episodes=5, random_episodes=2)
    for _ in range(4):
        protocol.collect(run)
    assert run.episodes == ["random", "random", ("own", "of 2", True), ("own", "of 3", True)]


def test_online_collects_its_own_episodes_from_the_first():
    run, protocol = Recorded(), OnlineProtocol(episodes=3)
    for _ in range(2):
        protocol.collect(run)
    assert run.episodes == [("own", "prior", True), ("own", "of 1", True)]


@pytest.mark.parametrize(
    ("scores", "found"), [([1.0, torch.nan, 2.0], "NaN"), ([[1.0], [2.0], [3.0]], r"shape \[3, 1\]")]
)
def test_a_judge_whose_scores_are_no_numbers_of_the_rows_is_named(scores, found):
    protocol = InDistributionProtocol(CODES, 6, 2, judge=lambda episode, context: torch.tensor(scores))
    with pytest.raises(ValueError, match=rf"judge returned {found} for collected episode 1, .*row, \[3\]"):
        make_collector(GoalFinder(), Walker(), TASKS).run(protocol)


@pytest.mark.parametrize("given", [torch.zeros(4), torch.zeros(0, 4), torch.zeros(2, 3, 4), None])
@pytest.mark.parametrize("protocol", [CandidatesProtocol, InDistributionProtocol, PreferenceSearchProtocol])
def test_contexts_that_are_not_one_per_row_are_refused(protocol, given):
    with pytest.raises(ValueError, match=rf"{protocol.__name__}: .*contexts \[N, d\]"):
        protocol(given)
