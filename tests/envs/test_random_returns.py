"""The measured return of random actions."""

from __future__ import annotations

import pytest
import torch

from ctmrl_torchrl.envs import make_env, make_task_set, random_returns


def test_random_returns_count_the_first_episode_only(cart):
    tasks, state = make_task_set("cart"), torch.get_rng_state()
    measured = random_returns(tasks, episodes=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(measured, random_returns(tasks, episodes=10))
    torch.manual_seed(0)
    env = make_env("cart", torch.arange(8).repeat(10), seed=0)
    rewards = env.rollout(15, break_when_any_done=False)["next"]
    expected = torch.zeros(8, dtype=torch.float64)
    for row in range(80):
        for step in range(15):
            expected[row % 8] += rewards["reward"][row, step, 0].double() / 10
            if rewards["done"][row, step, 0]:
                break
    torch.testing.assert_close(measured, expected)


def test_random_returns_are_those_that_the_shipped_families_state():
    tasks = make_task_set("point_robot_wind")
    state = torch.get_rng_state()
    random_returns(make_task_set("ant_goal", num_train=1, num_test=1), horizon=2)
    assert torch.equal(torch.get_rng_state(), state)
    measured = random_returns(tasks, episodes=200)[list(tasks.test_ids)].mean().item()
    assert measured == pytest.approx(tasks.family.random_return["repo"]["test"], abs=0.15)
