"""The registry of protocols, what they cost, and the encoders that a meta-test accepts."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from dataclasses import replace

import pytest
import torch
from hand_made_agents import HORIZON, Counts, EarlyEnv, GoalFinder, MarkedActor, Walker, make_collector
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torch import nn
from torchrl.data import Unbounded
from torchrl.envs import SerialEnv

import ctmrl_torchrl.collectors
from ctmrl_torchrl.collectors import (
    PROTOCOLS,
    AdaptationProtocol,
    CandidatesProtocol,
    NoContextProtocol,
    NonPriorProtocol,
    OnlineProtocol,
    ProtocolSettings,
    RefineProtocol,
    ToldProtocol,
    register_protocol,
)
from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.modules import make_context_encoder
from ctmrl_torchrl.rules import ConfigError

CODES = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.0, 1.0]])
SETTINGS = ProtocolSettings(episodes=6, random_episodes=3, candidates=lambda: CODES, num_candidates=3)
MODULES = [name for _, name, _ in pkgutil.iter_modules(ctmrl_torchrl.collectors.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    module = importlib.import_module(f"ctmrl_torchrl.collectors.{name}")
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize("name", PROTOCOLS.names())
def test_every_registered_protocol_is_made_from_settings(name):
    PROTOCOLS.get(name).check(SETTINGS)
    protocol = PROTOCOLS.get(name).from_settings(SETTINGS)
    assert protocol.name == name
    assert protocol.episodes == (1 if name in ("none", "told") else 6)
    assert getattr(protocol, "random_episodes", 3) == 3


def test_what_protocols_need_can_be_asked_before_there_is_an_agent():
    needs = {
        need: {name for name, protocol in PROTOCOLS.items() if getattr(protocol, need)}
        for need in ("needs_offline_data", "needs_candidates", "needs_task_encoder")
    }
    without_encoder = {name for name, protocol in PROTOCOLS.items() if not protocol.encodes_unseen_tasks}
    assert without_encoder == {"none", "anole", "codes"}
    assert needs == {
        "needs_offline_data": {"offline"},
        "needs_candidates": {"codes"},
        "needs_task_encoder": {"told"},
    }


@pytest.mark.parametrize(
    ("protocol", "settings", "message"),
    [
        (
            NonPriorProtocol,
            {"random_episodes": 6},
            "random_episodes: got 6, allowed is fewer than evaluation.ep",
        ),
        (RefineProtocol, {"random_episodes": 7}, "evaluation.random_episodes: got 7, allowed is fewer than"),
        (RefineProtocol, {"random_episodes": 1}, "evaluation.random_episodes: got 1, allowed is at least 2"),
        (CandidatesProtocol, {"num_candidates": 6}, "evaluation.episodes: got 6, allowed is more than 6"),
        (
            CandidatesProtocol,
            {"num_candidates": None, "candidates": None},
            "evaluation.protocols: got 'codes', allowed is anything without 'codes'",
        ),
    ],
)
def test_settings_that_do_not_fit_name_the_field(protocol, settings, message):
    fields = {"episodes": 6, "random_episodes": 3, "candidates": lambda: CODES, "num_candidates": 3}
    with pytest.raises(ConfigError, match=message):
        protocol.check(ProtocolSettings(**(fields | settings)))


def test_candidates_are_asked_for_when_the_protocol_is_made():
    live = torch.zeros(2, 2)
    settings = ProtocolSettings(episodes=6, candidates=lambda: live + 1)
    live += 1
    assert CandidatesProtocol.from_settings(settings).candidates.tolist() == [[2.0, 2.0]] * 2


def test_a_protocol_of_ones_own_is_registered_made_and_run():
    @register_protocol("twice")
    class Twice(AdaptationProtocol):
        """Plays two random episodes for each one that it keeps; reads an option."""

        @classmethod
        def from_settings(cls, settings):
            protocol = cls(settings.episodes)
            protocol.asks = settings.options["asks"]
            return protocol

        def context(self, run):
            return run.encode(run.episodes) if run.episodes else run.prior_context

        def collect(self, run):
            run.play_randomly()
            run.add(run.play_randomly())
            run.count_oracle_answers(self.asks)
            run.count_oracle_answers(torch.tensor([1, 0, 0]))

    try:
        settings = ProtocolSettings(episodes=3, options={"asks": 2})
        run = make_collector(Counts(), MarkedActor()).run(PROTOCOLS.get("twice").from_settings(settings))
    finally:
        PROTOCOLS.unregister("twice")
    assert run["task_context"][0, :, 0].tolist() == [0, 1, 2]
    assert run["episodes"].tolist() == [[0, 2, 4]] * 3
    assert run["env_steps"].tolist() == [[0, 2 * HORIZON, 4 * HORIZON]] * 3
    assert run["total_env_steps"].tolist() == [[HORIZON, 4 * HORIZON, 7 * HORIZON]] * 3
    assert run["oracle_answers"].tolist() == [[0, 3, 6], [0, 2, 4], [0, 2, 4]]


def test_a_protocol_without_the_contract_is_refused():
    class Half:
        def context(self, run):
            return run.prior_context

    with pytest.raises(TypeError, match="'half' lacks from_settings, check, reset, collect"):
        register_protocol("half")(Half)
    assert "half" not in PROTOCOLS
    with pytest.raises(ValueError, match="'np' is already registered"):
        register_protocol("np")(OnlineProtocol)
    assert OnlineProtocol.name == "online"

    class Idle(AdaptationProtocol):
        def context(self, run):
            return run.prior_context

    with pytest.raises(TypeError, match="Idle measures 2 episodes, so it must define collect"):
        make_collector(Counts(), MarkedActor()).run(Idle(2))


def test_only_valid_steps_are_counted():
    env = EarlyEnv([1, 7, 100])
    run = make_collector(Counts(), MarkedActor(), task_ids=(0, 1, 2), env=env).run(OnlineProtocol(3))
    assert run["env_steps"].tolist() == [[0, 1, 2], [0, 7, 14], [0, 20, 40]]
    assert run["total_env_steps"].tolist() == [[1, 3, 5], [7, 21, 35], [20, 60, 100]]
    assert run["episodes"].tolist() == [[0, 1, 2]] * 3
    assert not run["oracle_answers"].any()


def test_offline_episodes_are_counted_but_cost_no_steps():
    from test_meta_test_collector import offline_draw

    collector = make_collector(GoalFinder(), Walker(), task_ids=(1, 3, 7), offline_draw=offline_draw)
    run = collector.run(PROTOCOLS.get("offline")(3))
    assert run["episodes"].tolist() == [[0, 1, 2]] * 3 and not run["env_steps"].any()


class Lookup(nn.Module):
    """The task's parameters by its id."""

    def __init__(self):
        super().__init__()
        self.register_buffer("table", make_task_set("point_robot").parameters.float())

    def forward(self, task_id):
        return self.table[task_id]


def lookup(key="task_id"):
    return TensorDictModule(Lookup(), [key], ["task_context"])


def test_told_acts_with_what_the_encoder_makes_of_the_task_id():
    collector = make_collector(lookup(), Walker())
    run = collector.run(ToldProtocol())
    goals = make_task_set("point_robot").parameters[collector.task_ids].float()
    assert torch.equal(run["task_context"], goals[:, None])
    torch.testing.assert_close(run["last_path"][:, -1], goals)
    assert run["oracle_answers"].tolist() == [[1]] * 3 and not run["episodes"].any()
    renamed = make_collector(lookup("which"), Walker(), task_key="which")
    assert torch.equal(renamed.run(ToldProtocol())["returns"], run["returns"])


def test_told_without_such_an_encoder_is_a_clear_error():
    with pytest.raises(ValueError, match="GoalFinder reads .* cannot compute a context from 'task_id' alone"):
        make_collector(GoalFinder(), Walker()).run(ToldProtocol())


def test_none_is_one_measured_episode_with_zeros():
    run = make_collector(GoalFinder(), Walker()).run(NoContextProtocol())
    assert run["returns"].shape == (3, 1) and not run["task_context"].any()
    assert not run["last_path"].any() and not run["episodes"].any()


def test_an_encoder_may_read_the_task_id_beside_its_evidence():
    class Both(TensorDictModuleBase):
        in_keys = ["task_id", ("context", "next", "reward")]
        out_keys = ["task_context"]

        def forward(self, tensordict):
            mask = tensordict["context", "mask"].sum(-1)
            return tensordict.set("task_context", torch.stack([tensordict["task_id"], mask], -1).float())

    run = make_collector(Both(), Walker()).run(NonPriorProtocol(3, 1))
    assert run["task_context"][:, 2].tolist() == [[2.0, 40.0], [6.0, 40.0], [6.0, 40.0]]
    assert run["oracle_answers"].tolist() == [[0, 1, 1]] * 3  # the task is told once, with the first context


def test_flags_may_be_features():
    keys = {("context", "observation"): 1, ("context", "next", "terminated"): 1}
    encoder = make_context_encoder(feature_dims=keys, context_dim=3, hidden=(8,))
    collector = make_collector(encoder, MarkedActor(), (0, 1, 2), EarlyEnv([1, 7, 100]), context_dim=3)
    context = collector.run(OnlineProtocol(3))["task_context"][:, 1]
    # over its valid steps a row terminates in 1 of 1, 1 of 7 and 0 of 20
    views = []
    for limit in (1, 7, 20):
        flags = torch.zeros(limit, 1)
        if limit < 20:
            flags[-1] = 1.0
        views.append(encoder.transition_network(torch.cat([torch.arange(limit)[:, None], flags], -1)).mean(0))
    torch.testing.assert_close(context, torch.stack(views))


def test_a_key_that_episodes_lack_is_named():
    encoder = make_context_encoder(feature_dims={("context", "velocity"): 1}, context_dim=2)
    with pytest.raises(KeyError, match=r"'np': measured episode 1 lacks \[\('velocity',\)\]"):
        make_collector(encoder, Walker()).run(NonPriorProtocol(2, 1))


@pytest.mark.parametrize(
    "env",
    [
        lambda: make_env("point_robot", [4, 3, 2, 1]),
        lambda: make_env("point_robot", [1, 2, 3, 3]),
        lambda: SerialEnv(2, [lambda: make_env("point_robot", [1, 2])] * 2),
    ],
)
def test_an_environment_with_other_rows_is_refused(env):
    with pytest.raises(
        ValueError, match=r"row 0: task 4 .* 1 in task_ids|row 3: task 3 .* 4 in|batch size \[2, 2\]"
    ):
        make_collector(Counts(), MarkedActor(), (1, 2, 3, 4), env())


def test_tasks_that_were_changed_afterwards_are_noticed():
    collector = make_collector(Counts(), MarkedActor(), (1, 2, 3))
    collector.env.set_task([1, 2, 4])
    with pytest.raises(ValueError, match="row 2: task 4 in the environment, 3 in task_ids"):
        collector.run(NoContextProtocol())


class BrokenAt(Walker):
    """Plays a number that is none in the second row, from the given call on."""

    def __init__(self, call):
        super().__init__()
        self.calls, self.call = 0, call

    def forward(self, tensordict):
        self.calls += 1
        out = super().forward(tensordict)
        if self.calls >= self.call:
            out["action"][1] = torch.nan
        return out


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (3, r"'np': 'action' of task 6 \(row 1\) is not finite at step 2 of measured episode 1"),
        (HORIZON + 5, r"'action' of task 6 \(row 1\) is not finite at step 4 of measured episode 2"),
        (2 * HORIZON + 1, r"'action' of task 6 \(row 1\) is not finite at step 0 of collected episode 2"),
    ],
)
def test_a_number_that_is_not_finite_stops_with_task_episode_and_entry(call, message):
    with pytest.raises(FloatingPointError, match=message):
        make_collector(GoalFinder(), BrokenAt(call)).run(NonPriorProtocol(4, 1))


def test_a_context_that_is_not_finite_stops_before_it_is_played():
    class Lost(GoalFinder):
        def forward(self, tensordict):
            out = super().forward(tensordict)
            out["task_context"][2] = torch.inf
            return out

    with pytest.raises(
        FloatingPointError, match=r"context of task 6 \(row 2\) is not finite after 1 collected"
    ):
        make_collector(Lost(), Walker()).run(NonPriorProtocol(4, 1))


@pytest.mark.parametrize(
    ("context", "found"),
    [(None, "None"), (torch.zeros(2), "[2]"), (torch.zeros(1, 2), "[1, 2]"), (torch.zeros(3, 4), "[3, 4]")],
)
def test_contexts_that_are_not_one_per_row_are_named(context, found):
    class Wrong(AdaptationProtocol):
        name = "wrong"

        def context(self, run):
            return context if run.episodes else run.prior_context

        def collect(self, run):
            run.add(run.play_randomly())

    message = f"protocol 'wrong': expected contexts [3, 2], one per row [n, d], got {found} after 1 collected"
    with pytest.raises(ValueError, match=re.escape(message)):
        make_collector(GoalFinder(), Walker()).run(Wrong(2))


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
@pytest.mark.parametrize("name", ["anole", "codes", "idaq", "np_refine"])
def test_rewards_may_have_any_type(name, dtype):
    class Typed(EarlyEnv):
        def __init__(self, limits):
            super().__init__(limits)
            self.reward_spec = Unbounded((len(limits), 1), dtype=dtype)

        def _step(self, tensordict):
            out = super()._step(tensordict)
            return out.set("reward", out["reward"].to(dtype))

    settings = replace(SETTINGS, candidates=lambda: torch.eye(3))
    collector = make_collector(Counts(), MarkedActor(), (0, 1), Typed([2, 100]))
    run = collector.run(PROTOCOLS.get(name).from_settings(settings))
    assert run["returns"].tolist() == [[2] * 6, [20] * 6] and run["returns"].dtype == dtype


@pytest.mark.parametrize("entry", ["observation", "reward"])
def test_what_comes_after_an_early_end_need_not_be_finite(entry):
    class Poisoned(EarlyEnv):
        """Gives no number after its first end, which is no part of the episode."""

        ended = torch.zeros(2, 1, dtype=torch.bool)

        def _step(self, tensordict):
            out = super()._step(tensordict)
            out[entry][self.ended] = torch.nan
            self.ended = self.ended | out["done"]
            return out

    run = make_collector(Counts(), MarkedActor(), (0, 1), Poisoned([2, 100])).run(NoContextProtocol())
    assert run["returns"].tolist() == [[2.0], [20.0]]


def test_contexts_of_the_same_episodes_are_computed_once():
    class Counting(GoalFinder):
        calls = 0

        def forward(self, tensordict):
            self.calls += 1
            return super().forward(tensordict)

    encoder = Counting()
    make_collector(encoder, Walker()).run(NonPriorProtocol(5, 2))
    assert encoder.calls == 4  # after each of the four collected episodes, measured and played on
