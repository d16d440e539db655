"""Families that users make from gymnasium environments."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from guest_toys import Cart, Choice, make_cart, make_pendulum
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from gymnasium.utils.env_checker import check_env
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs

from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
from ctmrl_torchrl.envs import (
    TaskSet,
    TaskSimulationError,
    family_names,
    from_gymnasium,
    make_env,
    make_task_set,
    random_returns,
    unregister_family,
)

PENDULUM = {"mass": (0.5, 1.5), "length": (0.5, 1.5)}


@pytest.fixture
def define():
    """``from_gymnasium`` whose families leave again."""
    before = set(family_names())
    yield from_gymnasium
    for name in set(family_names()) - before:
        unregister_family(name)


@pytest.fixture
def cart(define):
    return define("cart", make_cart, {"mass": (0.5, 2.0)}, train_tasks=5, test_tasks=3)


def constant(value):
    return lambda td: td.set("action", torch.full((*td.batch_size, 1), value))


def test_sizes_bounds_and_horizon_are_probed(cart):
    assert (cart.observation_dim, cart.action_dim, cart.horizon) == (2, 1, 15)
    assert cart.parameter_names == ("mass",) and cart.simulator == "gymnasium"
    assert cart.context_next_observation and cart.return_key == ("next", "reward") and cart.terminates
    tasks = make_task_set("cart")
    assert tasks.test_ids == (1, 4, 6) and len(tasks) == 8
    assert ((tasks.parameters >= 0.5) & (tasks.parameters < 2.0)).all()


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


def test_pendulums_swing_by_their_own_mass_and_length(define):
    define("pendulum", make_pendulum, PENDULUM, train_tasks=4, test_tasks=3, discount=0.95)
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


def test_a_second_reward_is_read_from_info(define):
    family = define("far", make_cart, {"mass": (0.5, 2)}, return_key=("next", "far"))
    env = make_env("far", [0, 1], seed=0)
    check_env_specs(env)
    played = env.rollout(5, constant(0.1))
    torch.testing.assert_close(played[family.return_key], 10 * played["next", "observation"][..., :1])
    torch.testing.assert_close(played["next", "reward"], -played["next", "observation"][..., :1].abs())
    single = gymnasium.make("ctmrl/far-v0")
    observation, _ = single.reset(seed=0)
    observation, reward, *_ = single.step(np.zeros(1, dtype=np.float32))
    assert reward == pytest.approx(10 * observation[0])
    with pytest.raises(
        TaskSimulationError, match=r"sum of info\['near'\], but info contains only 'far' for task 0"
    ):
        define("near", make_cart, {"mass": (0.5, 2)}, return_key=("next", "near"))
    with pytest.raises(ValueError, match="return_key must be"):
        define("near", make_cart, {"mass": (0.5, 2)}, return_key="reward")
    for name in ("done", "my goal"):
        with pytest.raises(ValueError, match=rf"return_key cannot be \('next', '{name}'\)"):
            define("near", make_cart, {"mass": (0.5, 2)}, return_key=("next", name))


def test_the_horizon_is_found_or_asked_for(define):
    mass = {"mass": (0.5, 2.0)}
    with pytest.raises(ValueError, match="horizon of 'endless' is unknown.*TimeLimit"):
        define("endless", Cart, mass)
    assert define("endless", Cart, mass, horizon=7).horizon == 7
    assert make_env("endless", [0], horizon=30).horizon == 30
    assert define("short", make_cart, mass, horizon=6).horizon == 6
    with pytest.raises(ValueError, match="horizon=16 exceeds the time limit of 15"):
        define("longer", make_cart, mass, horizon=16)
    with pytest.raises(ValueError, match="horizon=16 exceeds"):
        make_env("short", [0], horizon=16)
    assert define("twice", lambda mass: gymnasium.wrappers.TimeLimit(make_cart(mass), 9), mass).horizon == 9


@pytest.mark.parametrize("space", [Dict(a=Box(0, 1)), Tuple((Box(0, 1), Discrete(2))), Discrete(4)])
def test_other_observations_are_refused_and_flattened_ones_taken(define, space):
    with pytest.raises(ValueError, match=r"observation space of 'x' is .*FlattenObservation\(env\)"):
        define("x", lambda a: Choice(observation_space=space), {"a": (0, 1)}, horizon=3)

    def flat(a):
        return gymnasium.wrappers.FlattenObservation(Choice(observation_space=space))

    define("x", flat, {"a": (0, 1)}, horizon=3)
    check_env_specs(make_env("x", [0, 1]))


@pytest.mark.parametrize(
    "space",
    [Discrete(3), MultiBinary(2), Dict(a=Box(0, 1)), Box(-np.inf, np.inf, (2,)), Box(0, 9, (2,), int)],
)
def test_other_actions_are_refused_and_wrapped_ones_taken(define, space):
    with pytest.raises(ValueError, match=r"action space of 'x' (is|must).*TransformAction\(env"):
        define("x", lambda a: Choice(action_space=space), {"a": (0, 1)}, horizon=3)

    def wrapped(a):
        env = Choice(action_space=space)
        return gymnasium.wrappers.TransformAction(env, lambda action: space.sample(), Box(-1, 1, (2,)))

    define("x", wrapped, {"a": (0, 1)}, horizon=3)
    check_env_specs(make_env("x", [0, 1]))


class Flags(Cart):
    """A cart whose ends are what the test says."""

    def __init__(self, mass, flag):
        super().__init__(mass)
        self.flag = flag

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.flag, False, info


@pytest.mark.parametrize("flag", [float("nan"), None, "no", 2, np.array([True, False]), np.float32("nan")])
def test_ends_that_are_no_flags_are_named(flag, define):
    """Python takes all of these for true or false: an episode would end, or not, for no reason."""
    with pytest.raises(TaskSimulationError, match="The terminated of 'x' must be True or False"):
        define("x", lambda mass: Flags(mass, flag), GRID, train_tasks=2, test_tasks=1, horizon=5)
        env = make_env("x", [0])
        env.rollout(2)


@pytest.mark.parametrize("flag", [True, np.bool_(True), 1, np.uint8(1), np.float32(1.0), np.array([True])])
def test_flags_of_other_dtypes_are_bools_in_the_environment(flag, define):
    define("x", lambda mass: Flags(mass, flag), GRID, train_tasks=2, test_tasks=1, horizon=5)
    step = make_env("x", [0]).rollout(1)["next"]
    assert step["terminated"].dtype == step["done"].dtype == torch.bool and step["done"].all()


def only_heavy(**changes):
    """A cart that is different for tasks of mass above 1."""
    return lambda mass: Cart(mass, **(changes if mass > 1 else {}))


GRID = {"mass": lambda n: np.linspace(0.5, 1.5, n)}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (only_heavy(shape=(3, 1)), r"same observation shape.*task 2 \(mass=1.5\).*shape \(3, 1\)"),
        (only_heavy(high=5.0), r"same observation shape and action bounds.*task 2 \(mass=1.5\)"),
        (only_heavy(colour="red"), r"make of 'x' failed for task 2 \(mass=1.5\): TypeError"),
        (
            lambda mass: Cart(mass) if mass < 1.2 else None,
            r"must return a gymnasium.Env, got NoneType for task 2",
        ),
    ],
)
def test_a_task_that_cannot_be_made_is_named(define, make, message):
    define("x", make, GRID, train_tasks=2, test_tasks=1, horizon=5)
    with pytest.raises(TaskSimulationError, match=message):
        make_env("x")
    env = make_env("x", [0])
    with pytest.raises(TaskSimulationError, match=message):
        env.set_task([2])
    with pytest.raises(RuntimeError, match="a task could not be created"):
        env.reset()


@pytest.mark.filterwarnings("ignore:.*ERROR")  # gymnasium's report of what its process raised
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"breaks_at": 2}, r"reward of 'x' must be finite, got nan for task 2 \(mass=1.5\), step 2"),
        ({"breaks_at": 1, "broken": "a lot"}, r"reward of 'x' must be one number, got 'a lot' for task 2"),
        (
            {"breaks_at": 1, "broken": np.zeros(2)},
            r"reward of 'x' must be one number, got array\(\[0., 0.\]\)",
        ),
        ({"breaks_at": 3, "broken": np.inf}, r"got inf for task 2 \(mass=1.5\), step 3"),
    ],
)
def test_values_that_are_not_finite_are_an_error(define, changes, message, asynchronous):
    define("x", only_heavy(**changes), GRID, train_tasks=2, test_tasks=1, horizon=5)
    env = make_env("x", [0, 2], asynchronous=asynchronous)
    with pytest.raises(TaskSimulationError, match=message):
        env.rollout(5, constant(0.1))


class Failing(Cart):
    def step(self, action):
        if self.mass > 1:
            raise ZeroDivisionError("too heavy")
        return super().step(action)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return (observation * np.nan if self.mass > 1.4 else observation), info


def test_failures_of_the_environment_name_the_task(define):
    define("x", Failing, {"mass": lambda n: np.linspace(0.5, 1.5, n)}, train_tasks=4, test_tasks=1, horizon=5)
    with pytest.raises(
        TaskSimulationError, match=r"step of 'x' failed for task 3 .*ZeroDivisionError: too heavy"
    ):
        make_env("x", [0, 3]).rollout(5)
    with pytest.raises(
        TaskSimulationError,
        match=r"observation \(feature 0\) of 'x' must be finite, got nan for task 4 .*step 0",
    ):
        make_env("x", [0, 4]).reset()


class OldStyle(Cart):
    def step(self, action):
        return super().step(action)[:4]


class Bare(Cart):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Worded(Cart):
    def reset(self, *, seed=None, options=None):
        return np.array([["left"], ["right"]]), {}


def test_a_reward_in_an_array_of_one_number_is_that_number(define):
    define("x", lambda mass: Cart(breaks_at=2, broken=np.array([-0.5])), GRID, train_tasks=2, horizon=5)
    assert make_env("x", [0]).rollout(2, constant(0.1))["next", "reward"][0, 1].item() == -0.5


def drawing_fails(generator):
    return generator.no_such_draw()


def test_failures_name_the_line_of_the_user(define):
    mild = {"mass": lambda n: np.linspace(0.5, 1.2, n)}
    define("x", Failing, mild, train_tasks=2, test_tasks=1, horizon=5)
    line = Failing.step.__code__.co_firstlineno + 2
    with pytest.raises(TaskSimulationError, match=rf"too heavy \(.*test_guests.py, line {line}\)"):
        make_env("x", [2]).rollout(2)
    line = drawing_fails.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match=rf"'mass' failed.*no_such_draw.* \(.*test_guests.py, line {line}\)"):
        define("y", Cart, {"mass": drawing_fails}, horizon=5)
    with pytest.raises(TaskSimulationError, match=r"make of 'z' failed.*\(.*guest_toys.py, line \d+\)"):
        define("z", lambda mass: Cart(mass, shape="wide"), {"mass": (1, 2)}, horizon=5)


@pytest.mark.parametrize(
    ("make", "parameters", "options", "error", "message"),
    [
        (
            OldStyle,
            {"mass": (1, 2)},
            {},
            TaskSimulationError,
            r"step of 'x' must return \(observation, reward.*got 4 values",
        ),
        (make_cart, {"weight": (1, 2)}, {}, ValueError, r"make\(weight=...\), which it does not accept"),
        (make_cart, PENDULUM, {}, ValueError, r"make\(mass=..., length=...\), which it does not accept"),
        ("Pendulum-v1", PENDULUM, {}, ValueError, "must be a function"),
        (
            make_cart,
            {"mass": lambda g: np.random.rand()},
            {},
            ValueError,
            "'mass' returned different values for",
        ),
        (make_cart, {"mass": (1, 2)}, {"train_tasks": 0}, ValueError, "train_tasks of 'x' must be"),
        (make_cart, {"mass": (1, 2)}, {"test_tasks": 0}, ValueError, "test_tasks of 'x' must be .*got 0"),
        (make_cart, {"mass": (1, 2)}, {"seed": -1}, ValueError, "seed must be"),
        (
            make_cart,
            {"mass": (1, 2)},
            {"context_next_observation": "yes"},
            ValueError,
            "True, False or 'auto'",
        ),
        (make_cart, {"mass": (1, 2)}, {"plane": (0, 5)}, ValueError, "plane must be two indices"),
        (make_cart, {"mass": (1, 2)}, {"colour": "red"}, ValueError, "no argument 'colour'"),
        (make_cart, {"mass": (1, 2)}, {"train_task": 12}, ValueError, "Did you mean 'train_tasks'"),
        (make_cart, {"mass": (1, 2)}, {"goal_radius_": 1}, ValueError, "Did you mean 'goal_radius'"),
        (
            make_cart,
            {"mass": (1, 2)},
            {"observation_dim": 2},
            ValueError,
            "no 'observation_dim': it is found",
        ),
        (Bare, {"mass": (1, 2)}, {}, TaskSimulationError, r"reset of 'x' must return \(observation, info\)"),
        (Worded, {"mass": (1, 2)}, {}, TaskSimulationError, "observation of 'x' must be an array of numbers"),
    ],
)
def test_a_wrong_definition_is_refused_at_once(define, make, parameters, options, error, message):
    with pytest.raises(error, match=message):
        define("x", make, parameters, **{"horizon": 5, **options})
    assert "x" not in family_names()


def test_options_reach_the_family(define):
    family = define(
        "x",
        make_cart,
        {"mass": (1, 2)},
        context_next_observation=False,
        presets={"paper": (7, 2)},
        optimum=lambda task_set: task_set.parameters[:, 0],
        register=False,
    )
    assert not family.context_next_observation and family.has_optimum and "x" not in family_names()
    assert family.presets == {"repo": (30, 10), "paper": (7, 2)}
    mine = TaskSet(family, "mine", [[1.0], [1.5]], [0], [1])
    assert family.env_builder(mine, None, "cpu").rollout(3).shape == (2, 3)


def test_a_file_or_a_cell_may_run_twice(define):
    mass = {"mass": (1, 2)}
    define("x", make_cart, mass)
    define("x", make_cart, {"mass": (3, 4)}, horizon=9)
    assert make_task_set("x").parameters.min() >= 3
    assert gymnasium.make("ctmrl/x-v0").unwrapped.horizon == 9
    with pytest.raises(ValueError, match="'x' is already registered"):
        define("x", lambda mass: Cart(mass), mass, horizon=3)
    with pytest.raises(ValueError, match="'point_robot' is already registered"):
        define("point_robot", make_cart, mass)


def test_a_collector_sees_whole_episodes(cart):
    env = make_env("cart", [0, 1, 2], seed=0)
    collector = Collector(env, None, frames_per_batch=3 * 60, total_frames=3 * 60)
    (batch,) = list(collector)
    collector.shutdown()
    done = batch["next", "done"].squeeze(-1)
    starts = batch["observation"][:, 1:][done[:, :-1]]
    assert done.any(1).all() and (starts[:, 0].abs() <= 0.1).all() and (starts[:, 1] == 0).all()
    within = ~done[:, :-1]
    assert torch.equal(batch["observation"][:, 1:][within], batch["next", "observation"][:, :-1][within])


def test_the_data_of_a_guest_are_collected(cart):
    recipe = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=2, hidden_sizes=(8,))
    dataset = collect_task_dataset("cart", recipe=recipe)
    assert dataset.n_trajectories == 8 * 2 * 2 and dataset.manifest.env == "cart"
    assert dataset.transitions["observation"].shape[1:] == (2,)


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


def test_a_task_set_carries_its_family_to_other_processes(cart):
    code = (
        "import pickle, sys; from ctmrl_torchrl.envs import family_names, make_env; "
        "tasks = pickle.loads(sys.stdin.buffer.read()); assert tasks.name not in family_names(); "
        "print(make_env(tasks.name, [3], task_set=tasks).rollout(4)['task_id'].tolist())"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, input=pickle.dumps(make_task_set("cart")), env=path, capture_output=True)
    assert done.stdout.decode().strip().endswith("[[3, 3, 3, 3]]"), done.stderr.decode()
