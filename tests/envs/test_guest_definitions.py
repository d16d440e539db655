"""What ``from_gymnasium`` finds out about a guest, and which definitions it refuses."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from guest_toys import PENDULUM, Cart, Choice, constant, make_cart
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, Tuple
from torchrl.envs.utils import check_env_specs

from ctmrl_torchrl.envs import (
    TaskSet,
    TaskSimulationError,
    family_names,
    from_gymnasium,
    make_env,
    make_task_set,
)


def test_sizes_bounds_and_horizon_are_probed(cart):
    assert (cart.observation_dim, cart.action_dim, cart.horizon) == (2, 1, 15)
    assert cart.parameter_names == ("mass",) and cart.simulator == "gymnasium"
    assert cart.context_next_observation and cart.return_key == ("next", "reward") and cart.terminates
    tasks = make_task_set("cart")
    assert tasks.test_ids == (1, 4, 6) and len(tasks) == 8
    assert ((tasks.parameters >= 0.5) & (tasks.parameters < 2.0)).all()


def test_the_horizon_is_found_or_asked_for():
    mass = {"mass": (0.5, 2.0)}
    with pytest.raises(ValueError, match="horizon of 'endless' is unknown.*TimeLimit"):
        from_gymnasium("endless", Cart, mass)
    assert from_gymnasium("endless", Cart, mass, horizon=7).horizon == 7
    assert make_env("endless", [0], horizon=30).horizon == 30
    assert from_gymnasium("short", make_cart, mass, horizon=6).horizon == 6
    for wrong in ("6", 6.5, True, 0):
        with pytest.raises(
            ValueError, match=f"horizon must be a whole number of at least 1 step, got {wrong!r}"
        ):
            from_gymnasium("wrong", make_cart, mass, horizon=wrong)
    with pytest.raises(ValueError, match="horizon=16 exceeds the time limit of 15"):
        from_gymnasium("longer", make_cart, mass, horizon=16)
    with pytest.raises(ValueError, match="horizon=16 exceeds"):
        make_env("short", [0], horizon=16)

    def limited_twice(mass):
        return gymnasium.wrappers.TimeLimit(make_cart(mass), 9)

    assert from_gymnasium("twice", limited_twice, mass).horizon == 9


def test_a_second_reward_is_read_from_info():
    family = from_gymnasium("far", make_cart, {"mass": (0.5, 2)}, return_key=("next", "far"))
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
        from_gymnasium("near", make_cart, {"mass": (0.5, 2)}, return_key=("next", "near"))
    with pytest.raises(ValueError, match="return_key must be"):
        from_gymnasium("near", make_cart, {"mass": (0.5, 2)}, return_key="reward")
    for name in ("done", "my goal"):
        with pytest.raises(ValueError, match=rf"return_key cannot be \('next', '{name}'\)"):
            from_gymnasium("near", make_cart, {"mass": (0.5, 2)}, return_key=("next", name))


@pytest.mark.parametrize("space", [Dict(a=Box(0, 1)), Tuple((Box(0, 1), Discrete(2))), Discrete(4)])
def test_other_observations_are_refused_and_flattened_ones_taken(space):
    with pytest.raises(ValueError, match=r"observation space of 'x' is .*FlattenObservation\(env\)"):
        from_gymnasium("x", lambda a: Choice(observation_space=space), {"a": (0, 1)}, horizon=3)

    def flat(a):
        return gymnasium.wrappers.FlattenObservation(Choice(observation_space=space))

    from_gymnasium("x", flat, {"a": (0, 1)}, horizon=3)
    check_env_specs(make_env("x", [0, 1]))


@pytest.mark.parametrize(
    "space",
    [Discrete(3), MultiBinary(2), Dict(a=Box(0, 1)), Box(-np.inf, np.inf, (2,)), Box(0, 9, (2,), int)],
)
def test_other_actions_are_refused_and_wrapped_ones_taken(space):
    with pytest.raises(ValueError, match=r"action space of 'x' (is|must).*TransformAction\(env"):
        from_gymnasium("x", lambda a: Choice(action_space=space), {"a": (0, 1)}, horizon=3)

    def wrapped(a):
        env = Choice(action_space=space)
        return gymnasium.wrappers.TransformAction(env, lambda action: space.sample(), Box(-1, 1, (2,)))

    from_gymnasium("x", wrapped, {"a": (0, 1)}, horizon=3)
    check_env_specs(make_env("x", [0, 1]))


class OldStyle(Cart):
    """A cart whose steps have one end, as in the library before gymnasium."""

    def step(self, action):
        return super().step(action)[:4]


class Bare(Cart):
    """A cart whose resets return the observation alone."""

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0]


class Worded(Cart):
    """A cart whose observations are words."""

    def reset(self, *, seed=None, options=None):
        return np.array([["left"], ["right"]]), {}


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
        (
            make_cart,
            {"mass": (1, 2)},
            {"presets": {"repo": (7, 3)}},
            ValueError,
            "presets of 'x' must not contain 'repo', .*train_tasks and test_tasks define it",
        ),
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
def test_a_wrong_definition_is_refused_at_once(make, parameters, options, error, message):
    with pytest.raises(error, match=message):
        from_gymnasium("x", make, parameters, **{"horizon": 5, **options})
    assert "x" not in family_names()


def test_options_reach_the_family():
    family = from_gymnasium(
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


def test_a_file_or_a_cell_may_run_twice():
    mass = {"mass": (1, 2)}
    from_gymnasium("x", make_cart, mass)
    from_gymnasium("x", make_cart, {"mass": (3, 4)}, horizon=9)
    assert make_task_set("x").parameters.min() >= 3
    assert gymnasium.make("ctmrl/x-v0").unwrapped.horizon == 9
    with pytest.raises(ValueError, match="'x' is already registered"):
        from_gymnasium("x", lambda mass: Cart(mass), mass, horizon=3)
    with pytest.raises(ValueError, match="'point_robot' is already registered"):
        from_gymnasium("point_robot", make_cart, mass)
