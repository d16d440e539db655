from __future__ import annotations

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.envs import family_names, get_family, make_env, register_family

NAMES = family_names()[:3]


def make_gym(name, **kwargs):
    return gymnasium.make(get_family(name).gymnasium_id, **kwargs)


def test_ids():
    ids = [get_family(name).gymnasium_id for name in NAMES]
    assert ids == ["ctmrl/PointRobot-v0", "ctmrl/PointRobotWind-v0", "ctmrl/SparsePointRobot-v0"]


@pytest.mark.parametrize("name", NAMES)
def test_equals_a_row_of_the_batched_environment(name):
    single, batched = make_gym(name, task=6), make_env(name, [1, 6])
    sparse = name == "sparse_point_robot"
    goal = make_env(name, [6])._goal[0]
    single.reset(seed=0)
    batched.reset()
    single.action_space.seed(0)
    rewards = []
    for count in range(20):
        # Towards the goal in the second half, so that the sparse reward is seen too.
        action = single.action_space.sample() if count < 3 else None
        if action is None:
            action = ((goal - batched._position[1]) / 0.1).clamp(-1, 1).numpy()
        obs, reward, terminated, truncated, info = single.step(action)
        rows = torch.stack([torch.zeros(2), torch.from_numpy(action)])
        out = batched.step(TensorDict({"action": rows}, [2]))["next"][1]
        torch.testing.assert_close(torch.from_numpy(obs), out["observation"], atol=1e-6, rtol=0)
        expected = out["sparse_reward" if sparse else "reward"].item()
        assert reward == pytest.approx(expected, abs=1e-6)
        if sparse:
            assert info["dense_reward"] == pytest.approx(out["reward"].item(), abs=1e-6)
        else:
            assert "dense_reward" not in info
        assert (terminated, truncated) == (out["terminated"].item(), out["truncated"].item())
        assert info["task_id"] == 6
        rewards.append(reward)
    assert truncated and rewards[-1] > (0.9 if sparse else -0.1)


@pytest.mark.parametrize("name", NAMES)
def test_truncates_once_at_the_horizon_without_a_time_limit(name):
    env = make_gym(name)
    assert env.spec.max_episode_steps is None
    assert "TimeLimit" not in str(env)
    env.reset()
    flags = [env.step(env.action_space.sample())[2:4] for _ in range(20)]
    assert flags == [(False, False)] * 19 + [(False, True)]
    env.reset()
    assert env.step(env.action_space.sample())[2:4] == (False, False)


@pytest.mark.parametrize("action", [[0.1, float("nan")], [0.1], [[0.1, 0.2]]])
@pytest.mark.parametrize("name", ["point_robot", "half_cheetah_vel"])
def test_broken_actions_are_refused(name, action):
    env = gymnasium.make(get_family(name).gymnasium_id).unwrapped
    env.reset(seed=0)
    with pytest.raises(ValueError, match="An action must be finite numbers of shape .* in"):
        env.step(np.array(action))


@pytest.mark.parametrize("horizon", [0, 2.5, True])
def test_horizons_are_whole_numbers(horizon):
    with pytest.raises(ValueError, match="horizon must be a whole number of at least 1"):
        make_gym("point_robot", horizon=horizon)


def test_a_task_is_a_number():
    with pytest.raises(ValueError, match="Task ids must be integers, got True"):
        make_gym("point_robot", task=True)


def test_preset_and_task_choose_the_goal():
    env = make_gym("point_robot", task=99, preset="paper", horizon=2).unwrapped
    torch.testing.assert_close(env._goal, torch.tensor([-1.0, 0.0]))
    with pytest.raises(ValueError, match="Task id 99 .*0 to 39"):
        make_gym("point_robot", task=99)


def test_returned_observations_are_not_the_state():
    env = make_gym("point_robot").unwrapped
    env.reset()[0].fill(9.0)
    env.step(env.action_space.high)[0].fill(9.0)
    assert env.step(env.action_space.high)[0] == pytest.approx([0.2, 0.2])


def test_registering_again_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        register_family(get_family("point_robot"))
