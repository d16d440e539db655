"""Stored fragments, and their rewards in other tasks than their own."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.envs.mujoco.relabel import rewards_in_tasks as robot_rewards
from ctmrl_torchrl.envs.point_robot import rewards_in_tasks
from ctmrl_torchrl.training.fragments import stored_fragments

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def test_stored_rewards_are_those_of_their_own_task(anole_experiment):
    stored = anole_experiment.dataset.transitions[::97]
    rows = stored.exclude("task_id", "trajectory_id", "snapshot_id").reshape(-1, 1)
    rewards = rewards_in_tasks(anole_experiment.task_set, torch.arange(40), rows)
    own = rewards[stored["task_id"], torch.arange(len(stored)), 0]
    torch.testing.assert_close(own, stored["next", "reward"].squeeze(-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("env", ["half_cheetah_vel", "ant_goal"])
def test_a_robots_rewards_are_those_of_its_task(env):
    tasks = torch.tensor([0, 7, 7])
    played = make_env(env, tasks).rollout(6, break_when_any_done=False)
    rewards = robot_rewards(make_task_set(env), tasks, played)
    own = rewards[torch.arange(3), torch.arange(3)]
    torch.testing.assert_close(own, played["next", "reward"].squeeze(-1), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(rewards[0, 1], rewards[1, 1])


def test_a_robot_of_another_body_has_no_such_rewards():
    with pytest.raises(ValueError, match="share one reward function"):
        robot_rewards(make_task_set("hopper_rand_params"), torch.tensor([0]), TensorDict({}, [1, 1]))


def test_fragments_lie_within_episodes_of_training_tasks(anole_experiment):
    dataset, task_set = anole_experiment.dataset, anole_experiment.task_set
    source = stored_fragments(dataset, task_set, torch.device("cpu"))
    fragments = source.draw(50, torch.Generator().manual_seed(0))
    assert fragments.batch_size == (50, 20)
    assert torch.equal(fragments["observation"][:, 1:], fragments["next", "observation"][:, :-1])
    training = torch.isin(dataset.transitions["task_id"], torch.tensor(list(task_set.train_ids)))
    known = dataset.transitions[training]["observation"]
    assert all((known == row).all(-1).any() for row in fragments["observation"][:, 3])
    tasks = torch.tensor([5, 2, 5])
    returns = source.returns(fragments, tasks)
    torch.testing.assert_close(returns, rewards_in_tasks(task_set, tasks, fragments).sum(-1))


def test_families_with_one_reward_function_have_no_fragments(anole_experiment):
    winds = make_task_set("point_robot_wind")
    assert stored_fragments(anole_experiment.dataset, winds, torch.device("cpu")) is None
