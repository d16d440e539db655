"""The registry of families: what is registered is a choice everywhere, from that moment on."""

from __future__ import annotations

import gymnasium
import pytest
import torch

import ctmrl_torchrl.envs
from ctmrl_torchrl.envs import (
    FAMILIES,
    EnvFamily,
    TaskSet,
    family_names,
    get_family,
    make_env,
    make_task_set,
    register_family,
    unregister_family,
)
from ctmrl_torchrl.envs.families import load_entry_point
from ctmrl_torchrl.envs.point_robot_env import build_point_robot
from ctmrl_torchrl.registry import UnknownChoiceError


def far_goals(num_tasks):
    return torch.linspace(1, 2, num_tasks).unsqueeze(-1).expand(-1, 2)


def by_hand(**changes):
    """What a user has to say of a family, and no more."""
    fields = {
        "name": "far_point_robot",
        "observation_dim": 2,
        "action_dim": 2,
        "horizon": 30,
        "parameter_names": ("goal_x", "goal_y"),
        "sample_parameters": far_goals,
        "env_builder": build_point_robot,
    }
    return EnvFamily(**{**fields, **changes})


@pytest.fixture
def guest():
    family = by_hand(gymnasium_id="guests/Far-v0", gymnasium_class=get_family("point_robot").gymnasium_class)
    yield register_family(family)
    unregister_family(family.name)


def test_a_guest_is_a_family_from_then_on(guest):
    assert family_names()[-1] == "far_point_robot" and "far_point_robot" in FAMILIES
    assert family_names() == ctmrl_torchrl.envs.ENV_NAMES
    env = make_env("far_point_robot", [0, 39])
    assert env.rollout(30)["next", "truncated"][:, -1].all() and env.horizon == 30
    assert env.task_parameters.tolist() == [[1, 1], [2, 2]]
    single = gymnasium.make("guests/Far-v0", task=39)
    assert single.unwrapped.horizon == 30 and single.unwrapped.task == 39
    with pytest.raises(UnknownChoiceError, match="Did you mean 'far_point_robot'"):
        get_family("far_pointrobot")


def test_a_guest_leaves_without_a_trace(guest):
    unregister_family("far_point_robot")
    unregister_family("far_point_robot")
    assert "far_point_robot" not in family_names() and "guests/Far-v0" not in gymnasium.registry
    with pytest.raises(UnknownChoiceError):
        make_task_set("far_point_robot")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "a b"}, "name must be letters"),
        ({"name": "../x"}, "name must be letters"),
        ({"name": 3}, "name must be letters"),
        ({"observation_dim": 0}, "observation_dim must be a whole number of at least 1, got 0"),
        ({"action_dim": 1.5}, "action_dim must be a whole number"),
        ({"horizon": None}, "horizon must be a whole number"),
        ({"parameter_names": ()}, "parameter_names must be a tuple of at least one"),
        ({"parameter_names": ("a", "a")}, "none of them twice"),
        ({"presets": {}}, "presets must be"),
        ({"presets": {"repo": (3, 0)}}, "presets must be"),
        ({"presets": {"repo": 3}}, "presets must be"),
        ({"return_key": "reward"}, "return_key must be a tuple that begins with 'next'.*, got 'reward'"),
        ({"return_key": ("reward", "next")}, "return_key must be a tuple that begins with 'next'"),
        ({"return_key": ("next",)}, "return_key must be a tuple that begins with 'next'"),
        ({"discount": 1.5}, "discount must be a number from 0 to 1"),
        ({"inert_parameters": frozenset({"mass"})}, "inert_parameters must be some of goal_x, goal_y"),
        ({"plane": (0, 2)}, "plane must be two indices of the observation, each from 0 to 1"),
        ({"goal_positions": far_goals}, "plane must be given"),
    ],
)
def test_a_family_is_checked_when_it_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        by_hand(**changes)


def test_only_families_are_registered():
    with pytest.raises(TypeError, match="expects an EnvFamily, got str"):
        register_family("point_robot")


def test_entry_points_are_objects_or_names():
    assert load_entry_point(by_hand) is by_hand
    assert load_entry_point("ctmrl_torchrl.envs.make:make_env") is make_env
    with pytest.raises(ValueError, match="'ctmrl_torchrl.envs.make:made' cannot be imported"):
        load_entry_point("ctmrl_torchrl.envs.make:made")


def test_goals_are_what_the_tasks_are_rewarded_for():
    goals = make_task_set("ant_goal").goal_positions()
    torch.testing.assert_close(goals.norm(dim=-1), torch.full((40,), 2.0, dtype=torch.float64))
    assert make_task_set("point_robot_wind").goal_positions().unique(dim=0).tolist() == [[1.0, 0.0]]
    assert make_task_set("half_cheetah_vel").goal_positions() is None
    assert (
        get_family("sparse_point_robot").goal_radius == 0.2 and get_family("point_robot").goal_radius is None
    )
    # the point robot is at its goal where nothing is lost
    tasks = make_task_set("point_robot", num_train=2, num_test=1)
    env = make_env("point_robot", task_set=TaskSet(tasks.family, "here", torch.zeros(3, 2), [0, 1], [2]))
    assert (env.rollout(1, lambda td: td.set("action", torch.zeros(3, 2)))["next", "reward"] == 0).all()


@pytest.mark.parametrize("name", family_names())
def test_early_ends_are_told_beforehand(name):
    family = get_family(name)
    torch.manual_seed(0)
    ended = make_env(name, [0, 1, 2], seed=0).rollout(100, break_when_any_done=False)["next", "terminated"]
    assert ended.any() == family.terminates
