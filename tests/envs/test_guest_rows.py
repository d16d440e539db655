"""Every row of a guest's environment is an environment that the user made, with a task of its own."""

from __future__ import annotations

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from guest_toys import PENDULUM, Cart, constant, make_pendulum
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDict
from torchrl.envs.utils import check_env_specs

from ctmrl_torchrl.envs import from_gymnasium, make_env, make_task_set


@pytest.mark.parametrize("asynchronous", [False, True])
def test_rows_are_the_users_environments(cart, asynchronous):
    tasks = make_task_set("cart")
    env = make_env("cart", [6, 0, 6], seed=3, asynchronous=asynchronous)
    played = env.rollout(15, constant(0.25), break_when_any_done=False)
    env.close()
    assert played["observation"].dtype == played["next", "reward"].dtype == torch.float32
    assert played["observation"].shape == (3, 15, 2)
    for row, task in enumerate([6, 0, 6]):
        own = Cart(tasks.parameters[task].item())
        own.reset(seed=0)
        own.state = played["observation"][row, 0].double().numpy()
        for step in range(15):
            # [-1, 1] is [-2, 4]: 0.25 is 1.75
            seen, reward, terminated, _, _ = own.step(np.array([[1.75]], dtype=np.float32))
            now = played[row, step]["next"]
            np.testing.assert_allclose(now["observation"].numpy(), seen.flatten(), rtol=1e-5, atol=1e-6)
            assert now["reward"].item() == pytest.approx(reward, rel=1e-4)
            assert now["terminated"].item() == terminated == now["done"].item()
            if terminated:
                break
        assert terminated and step > 3


def test_ends_and_cuts_are_kept_apart(cart):
    env = make_env("cart", seed=0)
    still = env.rollout(15, constant(-1 / 3), break_when_any_done=False)["next"]  # no force
    assert still["truncated"].sum(1).eq(1).all() and still["truncated"][:, -1].all()
    assert not still["terminated"].any()
    pushed = env.rollout(40, constant(1.0), break_when_any_done=False)
    ended = pushed["next", "terminated"]
    assert ended.any(1).all() and not (pushed["next", "truncated"] & ended).any()
    # the last observation is the one beyond the end; the step after it starts anew
    assert (pushed["next", "observation"][..., :1][ended].abs() > 1).all()
    starts = pushed["observation"][..., :1][:, 1:][ended[:, :-1]]
    assert (starts.abs() <= 0.1).all()
    assert make_env("cart", horizon=4).rollout(9)["next", "truncated"].flatten(1).sum(1).tolist() == [1] * 8


def test_a_row_that_ended_stands_still_until_it_is_reset(cart):
    env = make_env("cart", [0, 1], horizon=2, seed=0)
    env.reset()
    push = TensorDict({"action": torch.ones(2, 1)}, [2])
    env.step(push.clone())
    last = env.step(push.clone())["next"]
    again = env.step(push.clone())["next"]
    assert torch.equal(last["observation"], again["observation"]) and again["done"].all()
    assert (again["reward"] == 0).all() and (last["reward"] != 0).all()
    mask = torch.tensor([[True], [False]])
    env.reset(TensorDict({"_reset": mask}, [2]))
    moved = env.step(push.clone())["next"]
    assert moved["done"].flatten().tolist() == [False, True]
    assert torch.equal(moved["observation"][1], last["observation"][1])
    assert not torch.equal(moved["observation"][0], last["observation"][0])


def test_rows_that_are_held_do_not_move(cart):
    env = make_env("cart", [0, 1], horizon=2, seed=0)
    start = env.reset()["observation"]
    step = {"action": torch.full((2, 1), torch.nan), "_step": torch.tensor([[True], [False]])}
    step["action"][0] = 1.0
    seen = env.step(TensorDict(step, [2]))["next", "observation"]
    assert torch.equal(seen[1], start[1]) and not torch.equal(seen[0], start[0])
    done = env.step(TensorDict({"action": torch.ones(2, 1)}, [2]))["next", "done"]
    assert done.flatten().tolist() == [True, False]


def test_actions_are_clipped_and_broken_ones_refused(cart):
    env = make_env("cart", [0, 1], seed=0)
    env.reset()
    env.step(TensorDict({"action": torch.tensor([[7.0], [-7.0]])}, [2]))
    taken = [row._simulation.env.unwrapped.actions[-1].item() for row in env._vector.envs]
    assert taken == [4.0, -2.0]
    with pytest.raises(ValueError, match=r"action of row 1, task 1 \(mass=.*must be finite, got \[nan\]"):
        env.step(TensorDict({"action": torch.tensor([[0.0], [torch.nan]])}, [2]))


def test_seeds_decide_the_episodes(cart):
    first, again, other = (
        make_env("cart", [0, 0], seed=seed).rollout(20, constant(0.0), break_when_any_done=False)
        for seed in (0, 0, 1)
    )
    assert (first == again).all() and not (first == other).all()
    assert not torch.equal(first["observation"][0], first["observation"][1])
    torch.manual_seed(4)
    unseeded = make_env("cart", [0]).reset()
    torch.manual_seed(4)
    assert (make_env("cart", [0]).reset() == unseeded).all()


def test_set_task_makes_other_environments(cart):
    env, fresh = make_env("cart", [0, 1], seed=0), make_env("cart", [7, 1], seed=0)
    env.rollout(2)
    kept = env._vector.envs[1]._simulation
    env.set_task([7, 1])
    assert env.task_ids.tolist() == [7, 1] and env._vector.envs[1]._simulation is kept
    with pytest.raises(RuntimeError, match=r"Rows \[0, 1\] have not been reset.*env.reset"):
        env.step(TensorDict({"action": torch.zeros(2, 1)}, [2]))
    env.set_seed(0)
    fresh.set_seed(0)
    assert (env.rollout(9, constant(0.5)) == fresh.rollout(9, constant(0.5))).all()
    with pytest.raises(ValueError, match="3 task ids .* 2 rows"):
        env.set_task([0, 1, 2])
    with pytest.raises(ValueError, match="Task id 8 .*0 to 7"):
        env.set_task([0, 8])
    assert env.task_ids.tolist() == [7, 1]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_are_whole(cart, copied):
    env = make_env("cart", [3, 5], seed=0)
    env.rollout(2)
    twin = copied(env)
    with pytest.raises(RuntimeError, match="call env.reset"):
        twin.step(TensorDict({"action": torch.zeros(2, 1)}, [2]))
    assert (twin.rollout(9, constant(0.5)) == env.rollout(9, constant(0.5))).all()


def test_a_closed_environment_says_so(cart):
    env = make_env("cart", [0])
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.reset()


def test_the_single_environment_is_a_row(cart):
    single = gymnasium.make("ctmrl/cart-v0", task=3, horizon=6).unwrapped
    check_env(single)
    env = make_env("cart", [3], horizon=6)
    state = env.reset()
    single.reset(seed=0)
    single.simulation.env.unwrapped.state = env._vector.envs[0]._simulation.env.unwrapped.state.copy()
    for step in range(6):
        action = torch.tensor([[0.3 - 0.2 * step]])
        state = env.step(TensorDict({"action": action}, [1]))["next"]
        seen, reward, terminated, truncated, info = single.step(action[0].numpy())
        np.testing.assert_array_equal(seen, state["observation"][0].numpy())
        assert reward == pytest.approx(state["reward"].item(), rel=1e-6) and info["task_id"] == 3
        assert (terminated, truncated) == (state["terminated"].item(), state["truncated"].item())
    assert truncated
    with pytest.raises(ValueError, match="Task id 8"):
        gymnasium.make("ctmrl/cart-v0", task=8)


def test_pendulums_swing_by_their_own_mass_and_length():
    from_gymnasium("pendulum", make_pendulum, PENDULUM, train_tasks=4, test_tasks=3, discount=0.95)
    tasks = make_task_set("pendulum")
    env = make_env("pendulum", seed=0)
    check_env_specs(env)
    played = env.rollout(200, constant(0.5), break_when_any_done=False)
    assert tasks.family.horizon == 200 and played["next", "truncated"][:, -1].all()
    cos, sin, speed = played["observation"].double().unbind(-1)
    mass, length = (column.unsqueeze(-1) for column in tasks.parameters.unbind(-1))
    # the equation of motion, with the torque 0.5 * 2
    expected = speed + (15 / length * sin + 3 / (mass * length**2) * 1.0) * 0.05
    torch.testing.assert_close(
        played["next", "observation"][..., 2].double(), expected.clamp(-8, 8), atol=1e-5, rtol=1e-5
    )
