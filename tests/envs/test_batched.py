"""Rollouts of the batched environments take fewer checks than TorchRL's and give the same numbers."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictModuleBase
from torchrl.envs import EnvBase

from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.envs.mujoco.env import MujocoEnv
from ctmrl_torchrl.envs.point_robot_env import PointRobotEnv


class PlainMujocoEnv(MujocoEnv):
    """With TorchRL's methods and all their checks."""

    writes_specs = False
    rollout = EnvBase.rollout
    rand_action = EnvBase.rand_action


class PlainPointRobotEnv(PointRobotEnv):
    """With TorchRL's methods and all their checks."""

    writes_specs = False
    rollout = EnvBase.rollout
    rand_action = EnvBase.rand_action


CASES = {
    "falls": (MujocoEnv, PlainMujocoEnv, "hopper_rand_params", 60),
    "never ends": (MujocoEnv, PlainMujocoEnv, "half_cheetah_vel", 4),
    "all rows end": (PointRobotEnv, PlainPointRobotEnv, "point_robot", 25),
    "two rewards": (PointRobotEnv, PlainPointRobotEnv, "sparse_point_robot", 5),
}


def played(kind, family, steps, policy=None, **options):
    env = kind(make_task_set(family), [0, 0, 7, 3])
    env.set_seed(1)
    torch.manual_seed(2)
    with torch.no_grad():
        return env.rollout(steps, policy, break_when_any_done=False, **options)


def actor(actions):
    """Writes its action, and an entry that the environment does not know."""

    def act(observation):
        loc = 3 * observation[:, :actions].sin()
        return loc, loc.tanh()

    return TensorDictModule(act, ["observation"], ["loc", "action"])


class Remembering(TensorDictModuleBase):
    """Acts with full force and counts its steps in a nested entry."""

    in_keys, out_keys = ["observation"], ["action", ("memory", "steps")]

    def forward(self, td):
        steps = td.get(("memory", "steps"), torch.zeros(4, 1)) + 1
        return td.set("action", torch.ones(4, 3)).set("memory", TensorDict({"steps": steps}, [4]))


def same(found, expected):
    assert found.batch_size == expected.batch_size and found.names == expected.names
    assert found.device == expected.device and found["next"].batch_size == expected["next"].batch_size
    keys = set(expected.keys(True, True))
    assert set(found.keys(True, True)) == keys
    assert all(found[key].dtype == expected[key].dtype for key in keys)
    assert all(torch.equal(found[key], expected[key]) for key in keys)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("acts", ["at random", "by an actor"])
def test_a_rollout_equals_torchrls_bit_for_bit(case, acts):
    fast, plain, family, steps = CASES[case]
    task_set = make_task_set(family)
    policy = None if acts == "at random" else actor(task_set.family.action_dim)
    found, expected = (played(kind, task_set.name, steps, policy) for kind in (fast, plain))
    same(found, expected)
    if case in ("falls", "all rows end"):
        assert expected["next", "done"].any()


@pytest.mark.parametrize("option", [{"storing_device": "cpu"}, {"set_truncated": True}])
def test_other_options_are_torchrls(option):
    found, expected = (
        played(kind, "point_robot", 5, **option) for kind in (PointRobotEnv, PlainPointRobotEnv)
    )
    same(found, expected)


def test_a_policy_of_its_own_kind_is_torchrls():
    def hold(td):
        return td.set("action", torch.zeros(4, 2))

    found, expected = (played(kind, "point_robot", 5, hold) for kind in (PointRobotEnv, PlainPointRobotEnv))
    same(found, expected)


def test_nested_entries_of_a_policy_survive_restarts():
    found, expected = (
        played(kind, "hopper_rand_params", 60, Remembering()) for kind in (MujocoEnv, PlainMujocoEnv)
    )
    same(found, expected)
    assert expected["next", "done"].any()


def test_random_actions_are_those_of_the_spec():
    env = PointRobotEnv(make_task_set("point_robot"), [0, 1, 2])
    torch.manual_seed(0)
    expected = env.full_action_spec.rand()
    torch.manual_seed(0)
    found = env.rand_action()
    assert found.batch_size == expected.batch_size and torch.equal(found["action"], expected["action"])
    state = env.reset()
    assert env.rand_action(state) is state and state["action"].shape == (3, 2)


def test_random_actions_follow_another_spec():
    env = PointRobotEnv(make_task_set("point_robot"), [0, 1])
    env.rand_action()
    env.action_spec = env.action_spec.clone()
    env.action_spec.space.low = torch.zeros(2, 2)
    assert (torch.stack([env.rand_action()["action"] for _ in range(9)]) >= 0).all()
