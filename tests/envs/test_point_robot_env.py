from __future__ import annotations

import pickle

import pytest
import torch
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs import RewardSum, TransformedEnv
from torchrl.envs.utils import check_env_specs

from ctmrl_torchrl.envs import family_names, make_env, make_task_set

NAMES = family_names()[:3]


def step(env, action):
    return env.step(TensorDict({"action": action}, env.batch_size))["next"]


def partial_reset(env, rows, current):
    # TorchRL merges: rows outside the mask keep what the caller passes.
    mask = torch.zeros(*env.batch_size, 1, dtype=torch.bool)
    mask[rows] = True
    return env.reset(current.exclude(*env.reward_keys).set("_reset", mask))


@pytest.mark.parametrize("name", NAMES)
def test_specs(name):
    check_env_specs(make_env(name))
    check_env_specs(make_env(name, [3, 3, 38]))
    check_env_specs(TransformedEnv(make_env(name, [1, 2]), RewardSum()))


@pytest.mark.parametrize("name", NAMES)
def test_keys_shapes_and_types(name):
    env = make_env(name, [5, 0, 5])
    td = env.rollout(4)
    expected = {"observation", "task_id", "reward", "done", "terminated", "truncated"}
    if name == "sparse_point_robot":
        expected.add("sparse_reward")
    assert set(td["next"].keys()) == expected
    # The policy sees neither a clock nor a reward.
    assert set(td.keys()) == {"observation", "task_id", "done", "terminated", "truncated", "action", "next"}
    assert td["observation"].dtype == td["next", "reward"].dtype == torch.float32
    assert td["task_id"].dtype == torch.int64 and td["task_id"].shape == (3, 4)
    assert td["next", "observation"].shape == (3, 4, 2) and td["next", "reward"].shape == (3, 4, 1)
    assert (td["task_id"] == torch.tensor([[5], [0], [5]])).all()


def test_one_step_by_hand():
    env = make_env("point_robot_wind", [0])
    env.reset()
    wind = make_task_set("point_robot_wind").parameters[0].float()
    out = step(env, torch.tensor([[0.5, -3.0]]))  # the second component is clipped to -1
    position = torch.tensor([0.05, -0.1]) + wind
    torch.testing.assert_close(out["observation"][0], position)
    torch.testing.assert_close(out["reward"][0], -(position - torch.tensor([1.0, 0.0])).norm().view(1))


def test_horizon_truncates_and_never_terminates():
    env = make_env("point_robot", [0, 1], horizon=3)
    env.reset()
    flags = []
    for _ in range(3):
        out = step(env, torch.zeros(2, 2))
        flags.append([out[key].flatten().tolist() for key in ("done", "terminated", "truncated")])
    false, true = [False, False], [True, True]
    assert flags == [[false, false, false], [false, false, false], [true, false, true]]


def test_partial_reset_restarts_only_the_masked_rows():
    env = make_env("point_robot", [0, 1, 2], horizon=4)
    env.reset()
    for _ in range(2):
        out = step(env, torch.ones(3, 2))
    reset = partial_reset(env, [1], out)
    torch.testing.assert_close(reset["observation"], torch.tensor([[0.2, 0.2], [0.0, 0.0], [0.2, 0.2]]))
    done = []
    for _ in range(4):
        out = step(env, torch.ones(3, 2))
        done.append(out["truncated"].flatten().tolist())
    assert done == [[False] * 3, [True, False, True], [True, False, True], [True, True, True]]
    torch.testing.assert_close(out["observation"][1], torch.tensor([0.4, 0.4]))


def test_automatic_resets_keep_every_episode_at_the_horizon():
    env = make_env("sparse_point_robot", [0, 1], horizon=5)
    env.reset()
    step(env, torch.ones(2, 2))
    start = partial_reset(env, [0], step(env, torch.ones(2, 2)))  # the rows are now out of step by two
    td = env.rollout(20, break_when_any_done=False, auto_reset=False, tensordict=start)
    done = td["next", "done"].squeeze(-1)
    assert done[0].nonzero().flatten().tolist() == [4, 9, 14, 19]
    assert done[1].nonzero().flatten().tolist() == [2, 7, 12, 17]
    # The step after an episode's end starts at the origin; the end itself keeps its true next observation.
    assert (td["observation"][1, [3, 8, 13, 18]] == 0).all()
    assert (td["next", "observation"][done] != 0).any(-1).all()


def test_rollout_until_all_rows_are_done_holds_the_finished_ones():
    env = make_env("point_robot", [0, 1], horizon=5)
    env.reset()
    step(env, torch.ones(2, 2))
    out = env.step(
        TensorDict({"action": torch.ones(2, 2), "_step": torch.tensor([[True], [False]])}, env.batch_size)
    )["next"]
    torch.testing.assert_close(out["observation"], torch.tensor([[0.2, 0.2], [0.1, 0.1]]))
    assert env._step_count.flatten().tolist() == [2, 1]


def test_a_collector_sees_whole_episodes():
    env = make_env("point_robot", [0, 1, 2])
    collector = Collector(env, None, frames_per_batch=3 * 40, total_frames=3 * 40)
    (batch,) = list(collector)
    collector.shutdown()
    assert batch["next", "truncated"].squeeze(-1).nonzero()[:, 1].tolist() == [19, 39] * 3


def test_repeated_tasks_behave_alike():
    env = make_env("point_robot_wind", [7, 7, 3])
    env.reset()
    out = step(env, torch.full((3, 2), 0.3))
    assert torch.equal(out["reward"][0], out["reward"][1])
    assert not torch.equal(out["reward"][0], out["reward"][2])


@pytest.mark.parametrize("name", NAMES)
def test_set_task_equals_a_new_environment(name):
    env, fresh = make_env(name, [0, 1]), make_env(name, [30, 12])
    env.rollout(7)
    env.set_task(torch.tensor([30, 12]))
    actions = torch.rand(2, 20, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    env.reset()
    fresh.reset()
    for action in actions.unbind(1):
        assert (step(env, action) == step(fresh, action)).all()
    assert env.task_ids.tolist() == [30, 12]


def test_changing_an_output_does_not_change_the_state():
    env = make_env("point_robot", [0])
    env.reset()["observation"].fill_(9.0)
    step(env, torch.ones(1, 2))["observation"].fill_(9.0)
    torch.testing.assert_close(step(env, torch.ones(1, 2))["observation"], torch.tensor([[0.2, 0.2]]))


def test_seeds_are_accepted_and_chain():
    env = make_env("point_robot", [0], seed=5)
    assert env.set_seed(5) == make_env("point_robot", [1]).set_seed(5)


def test_all_state_moves_with_the_module():
    env = make_env("point_robot_wind", [0, 1])
    assert env.to("cpu") is env
    assert not [name for name, value in vars(env).items() if isinstance(value, torch.Tensor)]
    torch.nn.Module.to(env, "meta")  # TorchRL's specs cannot live on meta, the buffers can
    assert {buffer.device.type for buffer in env.buffers()} == {"meta"}
    assert len(list(env.buffers())) == 7 and not env.state_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_runs_on_a_gpu(name):
    env = make_env(name, device="cuda")
    check_env_specs(env)
    moved = make_env(name).to("cuda")
    moved.set_task(list(range(39, -1, -1)))
    assert moved.rollout(25, break_when_any_done=False).device.type == "cuda"


def test_pickles():
    env = pickle.loads(pickle.dumps(make_env("sparse_point_robot", [0, 4])))
    assert env.rollout(3)["task_id"][:, 0].tolist() == [0, 4]


def test_errors_name_the_task_and_the_range():
    with pytest.raises(ValueError, match=r"Task id 40 .*'point_robot'.*0 to 39"):
        make_env("point_robot", [0, 40])
    with pytest.raises(ValueError, match="Task id -1"):
        make_env("point_robot", [-1])
    with pytest.raises(ValueError, match="empty"):
        make_env("point_robot", [])
    env = make_env("point_robot", [0, 1])
    with pytest.raises(ValueError, match="3 task ids .* 2 rows"):
        env.set_task([0, 1, 2])
    with pytest.raises(ValueError, match="Task id 99"):
        env.set_task([0, 99])
    assert env.task_ids.tolist() == [0, 1]


def test_other_errors():
    with pytest.raises(ValueError, match="must belong to the same family"):
        make_env("point_robot", task_set=make_task_set("point_robot_wind"))
    with pytest.raises(ValueError, match="horizon"):
        make_env("point_robot", horizon=0)
    with pytest.raises(ValueError, match="sparse_rule"):
        make_env("sparse_point_robot", sparse_rule="plus-one")
    with pytest.raises(ValueError, match="Unknown environment family"):
        make_env("point_robots")
    with pytest.raises(ValueError, match=r"chosen by its name, got TaskSet\(.{,80}\. Known: ant_goal"):
        make_env(make_task_set("point_robot"))
