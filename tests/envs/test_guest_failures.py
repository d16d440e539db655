"""What goes wrong in a user's environment is told with the task, the step and the user's own line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from guest_toys import Cart, constant

from ctmrl_torchrl.envs import TaskSimulationError, from_gymnasium, make_env

GRID = {"mass": lambda n: np.linspace(0.5, 1.5, n)}


def only_heavy(**changes):
    """A cart that is different for tasks of mass above 1."""
    return lambda mass: Cart(mass, **(changes if mass > 1 else {}))


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
def test_a_task_that_cannot_be_made_is_named(make, message):
    from_gymnasium("x", make, GRID, train_tasks=2, test_tasks=1, horizon=5)
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
def test_values_that_are_not_finite_are_an_error(changes, message, asynchronous):
    from_gymnasium("x", only_heavy(**changes), GRID, train_tasks=2, test_tasks=1, horizon=5)
    env = make_env("x", [0, 2], asynchronous=asynchronous)
    with pytest.raises(TaskSimulationError, match=message):
        env.rollout(5, constant(0.1))


def test_a_reward_in_an_array_of_one_number_is_that_number():
    from_gymnasium(
        "x", lambda mass: Cart(breaks_at=2, broken=np.array([-0.5])), GRID, train_tasks=2, horizon=5
    )
    assert make_env("x", [0]).rollout(2, constant(0.1))["next", "reward"][0, 1].item() == -0.5


class Flags(Cart):
    """A cart whose ends are what the test says."""

    def __init__(self, mass, flag):
        super().__init__(mass)
        self.flag = flag

    def step(self, action):
        observation, reward, _, _, info = super().step(action)
        return observation, reward, self.flag, False, info


@pytest.mark.parametrize("flag", [float("nan"), None, "no", 2, np.array([True, False]), np.float32("nan")])
def test_ends_that_are_no_flags_are_named(flag):
    """Python takes all of these for true or false: an episode would end, or not, for no reason."""
    with pytest.raises(TaskSimulationError, match="The terminated of 'x' must be True or False"):
        from_gymnasium("x", lambda mass: Flags(mass, flag), GRID, train_tasks=2, test_tasks=1, horizon=5)


@pytest.mark.parametrize("flag", [True, np.bool_(True), 1, np.uint8(1), np.float32(1.0), np.array([True])])
def test_flags_of_other_dtypes_are_bools_in_the_environment(flag):
    from_gymnasium("x", lambda mass: Flags(mass, flag), GRID, train_tasks=2, test_tasks=1, horizon=5)
    step = make_env("x", [0]).rollout(1)["next"]
    assert step["terminated"].dtype == step["done"].dtype == torch.bool and step["done"].all()


class Failing(Cart):
    """A cart whose steps fail for masses above 1, and whose starts are not finite for masses above 1.4."""

    def step(self, action):
        if self.mass > 1:
            raise ZeroDivisionError("too heavy")
        return super().step(action)

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        return (observation * np.nan if self.mass > 1.4 else observation), info


def test_failures_of_the_environment_name_the_task():
    from_gymnasium("x", Failing, GRID, train_tasks=4, test_tasks=1, horizon=5)
    with pytest.raises(
        TaskSimulationError, match=r"step of 'x' failed for task 3 .*ZeroDivisionError: too heavy"
    ):
        make_env("x", [0, 3]).rollout(5)
    with pytest.raises(
        TaskSimulationError,
        match=r"observation \(feature 0\) of 'x' must be finite, got nan for task 4 .*step 0",
    ):
        make_env("x", [0, 4]).reset()


def drawing_fails(generator):
    return generator.no_such_draw()


def test_failures_name_the_line_of_the_user():
    here, mild = Path(__file__).name, {"mass": lambda n: np.linspace(0.5, 1.2, n)}
    from_gymnasium("x", Failing, mild, train_tasks=2, test_tasks=1, horizon=5)
    line = Failing.step.__code__.co_firstlineno + 2
    with pytest.raises(TaskSimulationError, match=rf"too heavy \(.*{here}, line {line}\)"):
        make_env("x", [2]).rollout(2)
    line = drawing_fails.__code__.co_firstlineno + 1
    with pytest.raises(ValueError, match=rf"'mass' failed.*no_such_draw.* \(.*{here}, line {line}\)"):
        from_gymnasium("y", Cart, {"mass": drawing_fails}, horizon=5)
    with pytest.raises(TaskSimulationError, match=r"make of 'z' failed.*\(.*guest_toys.py, line \d+\)"):
        from_gymnasium("z", lambda mass: Cart(mass, shape="wide"), {"mass": (1, 2)}, horizon=5)
