"""The protocol that searches a context by asking which of two episodes is better."""

from __future__ import annotations

import resource

import pytest
import torch
from small_runs import check_adapts
from tensordict.nn import TensorDictModule

from ctmrl_torchrl.collectors import MetaTestCollector, PreferenceSearchProtocol
from ctmrl_torchrl.collectors.protocol import ProtocolSettings
from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.modules import TaskTable
from ctmrl_torchrl.modules.preference_search import PreferenceSearch, rollout_predictions
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.fragments import stored_fragments

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
GOALS = make_task_set("point_robot").parameters.float()


def exact_rewards():
    """Knows the rewards of a task whose context is its goal."""

    def reward(observation, action, goal):
        position = observation + 0.1 * action.clamp(-1, 1)
        return -(position - goal).norm(dim=-1, keepdim=True)

    return TensorDictModule(reward, ["observation", "action", "task_context"], ["reward_prediction"])


def walker(toward):
    return TensorDictModule(toward, ["observation", "task_context"], ["action"])


def collector(env, tasks, toward):
    nothing = TaskTable(range(40), 2)  # an encoder that must not be asked
    options = {"task_ids": tasks, "horizon": 20, "context_dim": 2}
    return MetaTestCollector(make_env(env, tasks), walker(toward), nothing, **options)


def toward_goal(observation, goal):
    return ((goal - observation) / 0.1).clamp(-1, 1)


@pytest.fixture
def source(anole_experiment):
    return stored_fragments(anole_experiment.dataset, anole_experiment.task_set, torch.device("cpu"))


def test_a_noiseless_oracle_halves_the_candidates_and_finds_the_planted_one(source):
    """End to end on point_robot: the candidates are the goals of all tasks, the right one among them."""
    tasks = torch.tensor([3, 17, 17, 38])
    left = []

    class Watched(PreferenceSearchProtocol):
        def context(self, run):
            left.append(self._search.leaders().sum(-1))
            return super().context(run)

    protocol = Watched(
        GOALS, episodes=12, error_rate=0.0, reward_predictor=exact_rewards(), fragments=source, pairs=400
    )
    with collector("point_robot", tasks, toward_goal) as meta_test:
        run = meta_test.run(protocol, seed=0)
    counts = torch.stack(left, 1)  # after 0, 1, 2, ... questions
    assert counts[:, 0].tolist() == [40] * 4 and (counts[:, 1] <= 22).all() and (counts[:, 2] <= 12).all()
    assert (counts[:, 1:] <= counts[:, :-1]).all() and counts[:, -1].tolist() == [1] * 4
    assert torch.equal(run["task_context"][:, -1], GOALS[tasks])
    assert (run["returns"][:, -1] >= run["returns"][:, 0]).all()
    assert run["oracle_answers"][0].tolist() == [*range(11), 10]
    assert not run["episodes"].any() and not run["env_steps"].any()


def test_an_oracle_that_errs_is_forgiven(source):
    tasks = torch.arange(40)
    errors = []
    for error_rate in (0.0, 0.2):
        protocol = PreferenceSearchProtocol(
            GOALS, episodes=3, error_rate=error_rate, reward_predictor=exact_rewards(), fragments=source
        )
        with collector("point_robot", tasks, toward_goal) as meta_test:
            run = meta_test.run(protocol, seed=1)
        assert run["oracle_answers"][0].tolist() == [0, 5, 10]  # shared out among fewer measurements
        errors.append((run["task_context"] - GOALS.unsqueeze(1)).norm(dim=-1).mean(0))
    assert errors[0][-1] < 0.05 and errors[1][-1] < 0.5 * errors[1][0]


def test_where_rewards_are_shared_rollouts_are_compared():
    """Candidates are winds; the policy leans against the wind that it believes in."""
    winds = make_task_set("point_robot_wind").parameters.float()
    tasks = torch.arange(0, 40, 2)

    def against(observation, wind):
        return ((torch.tensor([1.0, 0.0]) - observation - wind) / 0.1).clamp(-1, 1)

    protocol = PreferenceSearchProtocol(winds, episodes=13, error_rate=0.0)
    with collector("point_robot_wind", tasks, against) as meta_test:
        run = meta_test.run(protocol, seed=0)
    # one episode first, then one per question; the eleventh question is not asked
    assert run["episodes"][0].tolist() == [*range(12), 11]
    assert run["oracle_answers"][0].tolist() == [0, 0, *range(1, 11), 10]
    error = (run["task_context"] - winds[tasks].unsqueeze(1)).norm(dim=-1).mean(0)
    assert error[-1] < 0.5 * error[0]
    assert run["returns"][:, -1].mean() > run["returns"][:, 0].mean()


def test_the_best_comparison_is_that_among_all_pairs():
    torch.manual_seed(0)
    rows, count = 5, 9
    protocol = PreferenceSearchProtocol(torch.randn(count, 2), episodes=12)
    search = protocol._search = PreferenceSearch(rows, count, queries=10, error_rate=0.2)
    for number in range(8):
        protocol._played = torch.rand(rows, count) < 0.4
        protocol._played[:, number] = True
        if number == 7:
            protocol._played[:] = True
        pairs = [(i, j) for i in range(count) for j in range(count)]
        first, second = torch.tensor(pairs).unbind(1)
        predictions = rollout_predictions(protocol.candidates, first, second)
        played = protocol._played
        fresh = ~played | played.all(-1, keepdim=True)
        asked = search.choose(predictions, played[:, first] & fresh[:, second] & (first != second))
        for found, expected in zip(
            protocol._best_comparison(), (first[asked], second[asked], predictions[asked]), strict=True
        ):
            assert torch.equal(found, expected)
        search.observe(predictions[asked], torch.rand(rows) < 0.5)


def test_a_thousand_candidates_need_no_memory_for_all_triples():
    """All pairs at once would be more than eight gigabytes."""
    protocol = PreferenceSearchProtocol(torch.randn(1024, 2), episodes=12, error_rate=0.0)
    protocol._search = PreferenceSearch(2, 1024, error_rate=0.0)
    protocol._played = torch.zeros(2, 1024, dtype=torch.bool)
    protocol._played[:, :3] = True
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    protocol._best_comparison()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000  # kilobytes


def test_no_more_rollouts_than_the_budget_allows():
    protocol = PreferenceSearchProtocol(torch.randn(18, 2), episodes=4)
    assert protocol.queries == 2
    with collector("point_robot_wind", torch.tensor([1, 2]), toward_goal) as meta_test:
        run = meta_test.run(protocol, seed=0)
    assert run["episodes"][0].tolist() == [0, 1, 2, 3] and run["oracle_answers"][0].tolist() == [0, 0, 1, 2]
    few = PreferenceSearchProtocol(torch.randn(2, 2), episodes=6)  # both are played soon
    with collector("point_robot_wind", torch.tensor([1, 2]), toward_goal) as meta_test:
        run = meta_test.run(few, seed=0)
    assert run["episodes"][0].tolist() == [0, 1, 2, 2, 2, 2] and run["oracle_answers"][0, -1] == 4


def test_the_same_seed_plays_the_same_game(source):
    options = {"reward_predictor": exact_rewards(), "fragments": source}
    runs = []
    for _ in range(2):
        with collector("point_robot", torch.tensor([3, 3]), toward_goal) as meta_test:
            runs.append(meta_test.run(PreferenceSearchProtocol(GOALS, 6, **options), seed=4))
    assert (runs[0] == runs[1]).all()
    assert not torch.equal(runs[0]["task_context"][0], runs[0]["task_context"][1])  # repeats differ


def test_a_search_without_a_question_is_refused(source):
    with pytest.raises(
        ValueError, match="episodes=2 must be at least 3, so that at least one query is possible"
    ):
        PreferenceSearchProtocol(GOALS, episodes=2)
    with pytest.raises(ValueError, match=r"at least 2 of them, one in each row; got \[1, 2\]"):
        PreferenceSearchProtocol(GOALS[:1], episodes=9)
    with pytest.raises(ValueError, match="need reward_predictor="):
        PreferenceSearchProtocol(GOALS, fragments=source)


def test_candidates_come_from_the_method_or_from_the_training_tasks():
    wanted = []

    def own(count):
        wanted.append(count)
        return torch.ones(count, 2)

    settings = ProtocolSettings(
        options={"search_candidates": own}, training_contexts=lambda: torch.zeros(5, 2)
    )
    assert PreferenceSearchProtocol.from_settings(settings).candidates.shape == (18, 2) and wanted == [18]
    settings = ProtocolSettings(training_contexts=lambda: torch.zeros(5, 2))
    assert PreferenceSearchProtocol.from_settings(settings).candidates.shape == (5, 2)
    with pytest.raises(ConfigError, match="evaluation.protocols.*needs candidate contexts"):
        PreferenceSearchProtocol.from_settings(ProtocolSettings())


def method_extras(method):
    extras = {"gentle": ["representation.made_up_share=0"], "ctmrl_relabel": ["representation.codes=2"]}
    return extras.get(method, [])


@pytest.mark.parametrize("method", ["gentle", "ctmrl_relabel", "unicorn"])
def test_other_methods_that_predict_rewards_can_be_searched(method, data_root, tmp_path):
    runs = check_adapts(method, data_root, tmp_path, ["anole", "np"], *method_extras(method))
    assert (runs["anole"]["oracle_answers"][..., -1] == 10).all() and not runs["np"]["oracle_answers"].any()


def test_the_search_goes_with_any_method_where_rollouts_are_compared(data_root, tmp_path):
    check_adapts("focal", data_root, tmp_path, ["anole"], "env=point_robot_wind")
