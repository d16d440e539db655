"""Simulations that break down: counted by task, warned of once, and no file written."""

from __future__ import annotations

import logging

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.envs.breakdowns import REPEATED, BreakdownCounts
from ctmrl_torchrl.envs.mujoco.engine import BatchEngine, RolloutEngine
from ctmrl_torchrl.envs.mujoco.models import load_model
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS


@pytest.fixture
def warned():
    """The warnings of TorchRL's logger."""
    records, logger = [], logging.getLogger("torchrl")
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)


def flags(*rows):
    return np.array(rows, dtype=bool)


def test_breakdowns_are_counted_by_task_and_warned_of_once(warned):
    counts = BreakdownCounts(make_task_set("point_robot"), np.array([4, 7, 4]))
    counts.record(flags(0, 0, 0), flags(0, 1, 0))
    assert not warned and counts.describe() == ""
    counts.record(flags(1, 0, 1), flags(1, 0, 1))
    counts.record(flags(0, 1, 1), flags(0, 1, 1))
    assert counts.counts.sum() == 4 and counts.counts[[4, 7]].tolist() == [3, 1]
    assert len(warned) == 1 and "task 4 (goal_x=" in warned[0] and "'point_robot'" in warned[0]
    assert counts.describe().startswith("task 4 (goal_x=") and "): 3; task 7 (" in counts.describe()
    counts.follow(np.array([0, 1, 2]))
    counts.record(flags(1, 1, 1), flags(1, 1, 1))
    assert counts.counts[:8].tolist() == [1, 1, 1, 0, 3, 0, 0, 1]
    assert counts.describe().endswith("and 2 more tasks")


def test_a_task_that_always_breaks_down_is_named(warned):
    counts = BreakdownCounts(make_task_set("point_robot"), np.array([4, 7, 4]))
    for episode in range(REPEATED + 2):
        counts.record(flags(0, 0, 0), flags(0, 0, 0))  # the episode goes on in between
        counts.record(flags(1, 1, episode != 1), flags(1, 1, 1))
    named = [message for message in warned if message.startswith("Every simulation")]
    assert len(named) == 2
    assert "task 7 (goal_x=" in named[0]
    assert "task 4 (" in named[1]  # one of its rows held once, and had to fail as often again


def test_whole_episodes_end_the_row_of_breakdowns(warned):
    counts = BreakdownCounts(make_task_set("point_robot"), np.array([4]))
    for episode in range(5 * REPEATED):
        counts.record(flags(episode % REPEATED != 0), flags(1))
    assert len(warned) == 1


def broken(env):
    env.reset()
    env.engine.qvel[1] = 1e11
    n, actions = env.action_spec.shape
    return env.step(TensorDict({"action": torch.zeros(n, actions)}, [n]))["next"]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_environment_counts_and_writes_nothing(threads, warned, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    env = make_env("ant_goal", [0, 9], seed=0, threads=threads)
    for _ in range(REPEATED + 1):
        assert broken(env)["unstable"].flatten().tolist() == [False, True]
    assert env.unstable_count == env.breakdowns.counts[9] == REPEATED + 1
    assert "task 9 (goal_x=" in env.breakdowns.describe()
    assert len(warned) == 2 and "task 9 (goal_x=" in warned[0] and warned[1].startswith("Every simulation")
    assert list(tmp_path.iterdir()) == []
    assert "WARNING: Nan" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("kind", [BatchEngine, RolloutEngine])
def test_no_engine_writes_a_log_file(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mujoco.set_mju_user_warning(None)
    model = load_model(ROBOTS["ant_goal"])
    engine = kind(model, 2, 5)
    engine.set_state(np.arange(2), np.tile(model.qpos0, (2, 1)), np.full((2, model.nv), 1e11))
    assert engine.step(np.zeros((2, model.nu))).all()
    assert list(tmp_path.iterdir()) == []


def test_the_single_environment_writes_nothing_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = gymnasium.make("ctmrl/AntGoal-v0").unwrapped
    env.reset(seed=0)
    env.engine.qvel[:] = 1e11
    *_, truncated, info = env.step(np.zeros(8, dtype=np.float32))
    assert truncated and info["unstable"] and list(tmp_path.iterdir()) == []


def test_the_users_own_handler_stays():
    seen = []
    mujoco.set_mju_user_warning(seen.append)
    try:
        broken(make_env("ant_goal", [0, 9], seed=0))
        assert any("unstable" in message for message in seen)
    finally:
        mujoco.set_mju_user_warning(None)
