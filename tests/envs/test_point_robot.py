from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ctmrl_torchrl.envs import TaskSet, family_names, make_env, make_task_set, optimal_returns, sparse_reward
from ctmrl_torchrl.envs.point_robot import goals_and_winds, optimal_positions

OPTIMA = [
    ("point_robot", {}, {}, -3.855, -3.858),
    ("point_robot_wind", {}, {}, -5.605, -4.922),
    ("sparse_point_robot", {}, {}, 13.375, 13.371),
    ("sparse_point_robot", {}, {"sparse_rule": "normalised"}, 12.477, 12.454),
    ("point_robot", {"preset": "paper"}, {}, -3.849, -3.847),
    ("point_robot_wind", {"preset": "paper"}, {}, -5.505, -5.017),
    ("sparse_point_robot", {"preset": "paper"}, {}, 13.374, 13.375),
    ("sparse_point_robot", {"preset": "paper"}, {"sparse_rule": "normalised"}, 12.470, 12.476),
    ("point_robot", {"num_train": 40, "num_test": 10}, {}, -3.848, -3.856),
    ("sparse_point_robot", {"num_train": 40, "num_test": 10}, {}, 13.379, 13.331),
    ("point_robot_wind", {"num_train": 80, "num_test": 20}, {}, -5.191, -4.833),
    ("sparse_point_robot", {}, {"horizon": 25}, 18.375, 18.371),
    ("point_robot_wind", {}, {"horizon": 25}, -5.605, -4.922),
]


@pytest.mark.parametrize(("name", "tasks", "options", "test", "train"), OPTIMA)
def test_optima_are_the_sheets(name, tasks, options, test, train):
    task_set = make_task_set(name, **tasks)
    returns = optimal_returns(task_set, **options)
    assert returns.dtype == torch.float64 and returns.shape == (len(task_set),)
    assert returns[list(task_set.test_ids)].mean().item() == pytest.approx(test, abs=6e-4)
    assert returns[list(task_set.train_ids)].mean().item() == pytest.approx(train, abs=6e-4)


def play(env, actions):
    """Rewards [n, horizon] of the reported return for fixed actions [n, horizon, 2]."""
    key = env.task_set.family.return_key
    td, rewards = env.reset(), []
    for action in actions.unbind(1):
        td = env.step(td.set("action", action))
        rewards.append(td[key])
        td = td["next"].exclude("reward", "sparse_reward")
    return torch.cat(rewards, -1)


def optimal_actions(task_set):
    goal, wind = goals_and_winds(task_set)
    path = optimal_positions(goal, wind, task_set.family.horizon)
    moves = path.diff(dim=1, prepend=torch.zeros_like(path[:, :1]))
    return ((moves - wind.unsqueeze(1)) / 0.1).float()


@pytest.mark.parametrize("preset", ["repo", "paper"])
@pytest.mark.parametrize("name", family_names()[:3])
def test_the_saturated_projection_controller_attains_the_optimum(name, preset):
    tasks = make_task_set(name, preset)
    actions = optimal_actions(tasks)
    assert actions.abs().max() <= 1 + 1e-5
    returns = play(make_env(name, preset=preset), actions).double().sum(-1)
    torch.testing.assert_close(returns, optimal_returns(tasks), atol=2e-5, rtol=0)


_TASKS = {name: make_task_set(name) for name in family_names()[:3]}
_ENVS = {name: make_env(name) for name in family_names()[:3]}


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(family_names()[:3]),
    blend=st.floats(0.0, 1.0),
    noise=arrays("float32", (20, 2), elements=st.floats(-1.5, 1.5, width=32)),
)
def test_no_admissible_actions_beat_the_optimum(name, blend, noise):
    # Blends of the best actions and arbitrary ones search near the bound, where a violation would show.
    best = optimal_actions(_TASKS[name])
    actions = best * blend + torch.from_numpy(noise) * (1 - blend)
    returns = play(_ENVS[name], actions).double().sum(-1)
    assert (returns <= optimal_returns(_TASKS[name]) + 5e-5).all()


@pytest.mark.parametrize(
    ("name", "train", "test", "tolerance"),
    [
        ("point_robot", -20.35, -20.36, 0.15),
        ("point_robot_wind", -21.4, -25.0, 0.15),
        ("sparse_point_robot", 0.0008, 0.0007, 0.004),
    ],
)
def test_random_returns_are_the_sheets(name, train, test, tolerance):
    tasks, repeats = make_task_set(name), 400
    env = make_env(name, torch.arange(40).repeat_interleave(repeats))
    noise = torch.rand(env.batch_size[0], 20, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    returns = play(env, noise).sum(-1).view(40, repeats).mean(-1)
    assert returns[list(tasks.train_ids)].mean().item() == pytest.approx(train, abs=tolerance)
    assert returns[list(tasks.test_ids)].mean().item() == pytest.approx(test, abs=tolerance)
    recorded = tasks.family.random_return["repo"]
    assert recorded == {"train": train, "test": test}


def test_sparse_rules_inside_on_and_outside_the_radius():
    dense = torch.tensor([0.0, -0.1, -0.2, -0.21, -5.0])
    torch.testing.assert_close(sparse_reward(dense), torch.tensor([1.0, 0.9, 0.8, 0.0, 0.0]))
    normalised = sparse_reward(dense, "normalised")
    torch.testing.assert_close(normalised, torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0]))
    assert (normalised >= 0).all()
    torch.testing.assert_close(sparse_reward(dense, radius=0.15), torch.tensor([1.0, 0.9, 0.0, 0.0, 0.0]))


def test_rounding_at_the_radius_does_not_cost_the_reward():
    just_outside = torch.nextafter(torch.tensor(-0.2), torch.tensor(-1.0)).view(1)
    assert just_outside.double().item() < -0.2
    torch.testing.assert_close(sparse_reward(just_outside), torch.tensor([0.8]))
    torch.testing.assert_close(sparse_reward(just_outside, "normalised"), torch.tensor([0.0]))


def test_sparse_rule_errors():
    with pytest.raises(ValueError, match="'half'.*plus_one, normalised"):
        sparse_reward(torch.zeros(1), "half")
    with pytest.raises(ValueError, match=r"positive.*-0\.2"):
        sparse_reward(torch.zeros(1), radius=-0.2)


def test_families_without_optimum_say_so():
    tasks = make_task_set("point_robot")
    unknown = TaskSet(
        replace(tasks.family, optimum=None), "repo", tasks.parameters, tasks.train_ids, tasks.test_ids
    )
    with pytest.raises(ValueError, match="The exact optimum"):
        optimal_returns(unknown)


def test_goals_and_winds_need_a_point_robot():
    tasks = make_task_set("point_robot")
    family = replace(tasks.family, parameter_names=("mass", "length"))
    with pytest.raises(ValueError, match="not a point-robot family"):
        goals_and_winds(TaskSet(family, "repo", tasks.parameters, tasks.train_ids, tasks.test_ids))
