from __future__ import annotations

import importlib.util

import pytest
import torch
from hand_made_agents import HORIZON, Counts, EarlyEnv, MarkedActor, Walker
from test_recorded_numbers import HORIZONS, TASKS, make_agent, make_env
from torchrl.collectors import Collector
from torchrl.envs import RenameTransform, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.collector_kinds import make_single
from ctmrl_torchrl.collectors import (
    COLLECTORS,
    CollectorConfig,
    CollectorKind,
    EpisodeCollector,
    MetaTestCollector,
    NonPriorProtocol,
)
from ctmrl_torchrl.collectors.episodes import _split
from ctmrl_torchrl.registry import UnknownChoiceError
from ctmrl_torchrl.rules import ConfigError


def point_robots(task_ids):
    return make_env("point_robot", task_ids)


def reference(env, actor, context, horizon, exploration):
    """The same episode by ``env.rollout``."""

    def policy(tensordict):
        return actor(tensordict.set("task_context", context))

    with torch.no_grad(), set_exploration_type(exploration):
        return env.rollout(horizon, policy, break_when_any_done=False)


@pytest.mark.parametrize("name", HORIZONS)
def test_episodes_are_those_of_a_rollout_bit_for_bit(name):
    """Three episodes one after the other: a reset too many would move the later ones' initial states."""
    actor, _ = make_agent(name)
    context = torch.randn(len(TASKS), 4, generator=torch.Generator().manual_seed(1))
    horizon, ended = HORIZONS[name], False
    episodes = EpisodeCollector(
        make_env(name, TASKS, horizon=horizon), actor, task_ids=torch.tensor(TASKS), horizon=horizon
    )
    env = make_env(name, TASKS, horizon=horizon)
    torch.manual_seed(3)
    with episodes.session(seed=3):
        found = [episodes.play(context, stochastic=stochastic) for stochastic in (False, True, False)]
    torch.manual_seed(3)
    env.set_seed(3)
    kinds = ExplorationType.DETERMINISTIC, ExplorationType.RANDOM, ExplorationType.DETERMINISTIC
    for episode, kind in zip(found, kinds, strict=True):
        expected = reference(env, actor, context, horizon, kind)
        for key in ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "done")):
            assert torch.equal(episode[key], expected[key]), key
        ended = ended or not episode["mask"].all()
        first_end = [row.tolist().index(True) for row in expected["next", "done"].squeeze(-1)]
        assert episode["mask"].sum(1).tolist() == [end + 1 for end in first_end]
    assert ended == (name == "hopper_rand_params")  # so that early ends are among what is compared


def test_rows_that_end_early_are_masked():
    limits = [1, 7, 100]
    episodes = EpisodeCollector(EarlyEnv(limits), MarkedActor(), task_ids=torch.arange(3), horizon=HORIZON)
    with episodes.session(0):
        assert episodes.play(torch.zeros(3, 3))["mask"].sum(1).tolist() == [1, 7, 20]


def test_random_actions_are_those_of_the_spec_and_of_the_seed():
    env, tasks = point_robots(TASKS), torch.tensor(TASKS)
    episodes = EpisodeCollector(env, Walker(), task_ids=tasks, horizon=HORIZON)
    torch.manual_seed(0)
    with episodes.session(0):
        actions = episodes.play_randomly()["action"]
    torch.manual_seed(0)
    assert torch.equal(actions, torch.stack([env.action_spec.rand() for _ in range(HORIZON)], 1))


def test_random_actions_go_where_the_environment_reads_them():
    env, tasks = point_robots(TASKS), torch.tensor(TASKS)
    renamed = TransformedEnv(point_robots(TASKS), RenameTransform([], [], ["action"], ["command"]))
    played = []
    for each in (env, renamed):
        torch.manual_seed(0)
        episodes = EpisodeCollector(each, Walker(), task_ids=tasks, horizon=HORIZON)
        with episodes.session(0):
            played.append(episodes.play_randomly())
    assert torch.equal(played[1]["command"], played[0]["action"])
    assert torch.equal(played[1]["next", "observation"], played[0]["next", "observation"])


def test_making_one_leaves_the_global_random_state_alone():
    env, tasks = make_env("half_cheetah_vel", [1, 2]), torch.tensor([1, 2])
    before = torch.get_rng_state()
    EpisodeCollector(env, make_agent("half_cheetah_vel")[0], task_ids=tasks, horizon=5)
    assert torch.equal(torch.get_rng_state(), before)


def test_an_environment_that_was_passed_stays_open_and_one_that_was_made_is_closed():
    closed, tasks = [], torch.tensor(TASKS)

    def make(task_ids):
        env = point_robots(task_ids)
        env.close = lambda **options: closed.append(env)
        env.is_closed = False
        return env

    options = {"task_ids": tasks, "horizon": HORIZON, "context_dim": 3}
    with MetaTestCollector(make(tasks), MarkedActor(), Counts(), **options) as kept:
        kept.run(NonPriorProtocol(2, 1))
    assert not closed
    with MetaTestCollector(make, MarkedActor(), Counts(), **options) as made:
        made.run(NonPriorProtocol(2, 1))
        assert not closed
    assert closed == [made.env]
    with pytest.raises(RuntimeError, match="was closed"):
        made.run(NonPriorProtocol(2, 1))


def test_it_plays_on_after_an_error():
    class Moody(Walker):
        broken = True

        def forward(self, tensordict):
            if self.broken:
                raise OSError("not today")
            return super().forward(tensordict)

    actor, tasks = Moody(), torch.tensor(TASKS)
    episodes = EpisodeCollector(point_robots(tasks), actor, task_ids=tasks, horizon=HORIZON)
    with pytest.raises(OSError, match="not today"), episodes.session(0):
        episodes.play(torch.zeros(4, 2))
    actor.broken = False
    with episodes.session(0):
        assert episodes.play(torch.ones(4, 2))["next", "observation"][0, -1].tolist() == [1.0, 1.0]


def test_rows_are_split_evenly_and_none_is_lost():
    for rows, workers in ((5, 2), (4, 4), (3, 8), (7, 3)):
        parts = _split(rows, workers)
        assert len(parts) == min(workers, rows) and len({len(part) for part in parts}) == 1
        flat = torch.cat(parts)
        assert flat[:rows].tolist() == list(range(rows)) and (flat[rows:] == rows - 1).all()


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (CollectorConfig("singel"), ConfigError, "collector.kind: got 'singel'.* Did you mean 'single'"),
        (CollectorConfig("multi_sync", 0), ConfigError, "collector.workers: got 0"),
        (CollectorConfig("single", 2), ConfigError, "collector.workers: got 2, allowed is 1 for"),
        (CollectorConfig("multi_sync", 2), ValueError, "set env= to a function of task ids"),
    ],
)
def test_wrong_configurations_are_clear_errors(config, error, message):
    tasks = torch.tensor(TASKS)
    with pytest.raises(error, match=message):
        EpisodeCollector(point_robots(tasks), Walker(), task_ids=tasks, horizon=HORIZON, config=config)


def test_ray_that_is_not_installed_is_a_clear_error(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    with pytest.raises(ConfigError, match="collector.kind: got 'ray'.*pip install ray"):
        CollectorConfig("ray", 2).check("collector")


def test_a_kind_of_ones_own_is_a_choice():
    made = []

    def make(parts):
        made.append(make_single(parts))
        return made[-1]

    COLLECTORS.register("mine", CollectorKind(make, in_process=True))
    try:
        tasks = torch.tensor(TASKS)
        episodes = EpisodeCollector(
            point_robots, Walker(), task_ids=tasks, horizon=HORIZON, config=CollectorConfig("mine")
        )
        with episodes.session(0):
            assert episodes.play(torch.zeros(4, 2)).shape == (4, HORIZON)
        assert type(made[0]) is Collector
    finally:
        COLLECTORS.unregister("mine")
    with pytest.raises(UnknownChoiceError):
        COLLECTORS.get("mine")


@pytest.mark.slow
def test_two_processes_play_what_one_plays():
    """Deterministic and random episodes are the same; five rows over two workers, so one is repeated."""
    tasks = torch.tensor([2, 6, 11, 4, 5])
    actor, encoder = make_agent("point_robot")
    options = {"task_ids": tasks, "horizon": HORIZON, "context_dim": 4}
    one = MetaTestCollector(point_robots, actor, encoder, **options)
    many = MetaTestCollector(
        point_robots, actor, encoder, collector=CollectorConfig("multi_sync", 2), **options
    )
    protocol = NonPriorProtocol(4, 3)
    with one, many:
        for _ in range(2):
            expected, found = one.run(protocol, seed=3), many.run(protocol, seed=3)
            for key in ("returns", "task_context", "first_path", "last_path", "env_steps"):
                torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-5)
            with torch.no_grad():  # the workers' copies follow the actor
                for parameter in actor.parameters():
                    parameter.mul_(1.5)
        again = NonPriorProtocol(4, 1)  # stochastic episodes repeat for the same seed and workers
        first, second, other = (many.run(again, seed=seed)["returns"] for seed in (0, 0, 1))
        assert torch.equal(first, second) and not torch.equal(first, other)
