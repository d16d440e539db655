from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from ctmrl_torchrl.envs.guests.draws import check_draws, draw_parameters


def draw(number, seed=0, **draws):
    return draw_parameters(number, draws=check_draws(draws), seed=seed)


def test_ranges_are_uniform_and_seeded():
    values = draw(4000, mass=(0.5, 1.5), length=[2, 4])
    assert values.dtype == torch.float64 and values.shape == (4000, 2)
    assert (values >= torch.tensor([0.5, 2.0])).all() and (values < torch.tensor([1.5, 4.0])).all()
    torch.testing.assert_close(
        values.mean(0), torch.tensor([1.0, 3.0], dtype=torch.float64), atol=0.05, rtol=0
    )
    torch.testing.assert_close(values.var(0), torch.tensor([1 / 12, 4 / 12]).double(), atol=0.02, rtol=0)
    assert abs(np.corrcoef(values.T)[0, 1]) < 0.05
    assert torch.equal(values, draw(4000, mass=(0.5, 1.5), length=[2, 4]))
    assert not torch.equal(values, draw(4000, seed=1, mass=(0.5, 1.5), length=[2, 4]))


def test_a_parameter_does_not_depend_on_the_others_nor_on_the_number_of_tasks():
    few = draw(10, mass=(0.5, 1.5))[:, 0]
    assert torch.equal(few, draw(20, length=(0, 1), mass=(0.5, 1.5))[:10, 1])


def test_the_global_generator_plays_no_part():
    np.random.seed(0)
    first, state = draw(5, mass=(0.5, 1.5)), np.random.get_state()[1]
    np.random.seed(1)
    assert torch.equal(first, draw(5, mass=(0.5, 1.5)))
    np.random.seed(0)
    assert (state == np.random.get_state()[1]).all()


@pytest.mark.parametrize(
    "function",
    [
        lambda generator: generator.integers(3),
        lambda rng: float(rng.integers(3)),
        lambda rng, n: rng.integers(3, size=n),
        lambda n, rng: rng.integers(3, size=n).tolist(),
        lambda rng, k: rng.integers(3, size=k),
        lambda g, tasks: list(g.integers(3, size=tasks)),
        lambda rng, num_tasks: torch.from_numpy(rng.integers(3, size=num_tasks)),
        lambda rng, scale=1: scale * rng.integers(3),
        partial(lambda high, rng: rng.integers(high), 3),
        lambda rng: np.array(rng.integers(3)),
    ],
)
def test_functions_draw_one_value_or_all(function):
    values = draw(50, kind=function)
    assert values.shape == (50, 1) and set(values.flatten().tolist()) == {0.0, 1.0, 2.0}
    assert torch.equal(values, draw(50, kind=function))


def test_a_function_of_the_number_of_tasks_alone_is_a_grid():
    assert draw(3, angle=lambda n: np.linspace(0, 1, n)).flatten().tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "must map at least one name"),
        ((0.5, 1.5), "must map at least one name"),
        ({"a b": (0, 1)}, "'a b' cannot be a keyword argument"),
        ({3: (0, 1)}, "3 cannot be a keyword argument"),
        ({"mass": (1.5, 0.5)}, r"'mass' must be a range \(low, high\) with low < high.*\(1.5, 0.5\)"),
        ({"mass": (1.0, 1.0)}, "inside make"),
        ({"mass": 1.0}, "'mass' must be a range"),
        ({"mass": (0, 1, 2)}, "'mass' must be a range"),
        ({"mass": (0, float("inf"))}, "'mass' must be a range"),
        ({"mass": (0, True)}, "'mass' must be a range"),
        ({"mass": "ab"}, "'mass' must be a range"),
        ({"mass": lambda: 1.0}, r"'mass' must take a NumPy Generator, f\(generator\).*it takes \(\)"),
        ({"mass": lambda a, b, c: 1.0}, r"it takes \(a, b, c\)"),
        ({"mass": lambda n, size: 1.0}, r"it takes \(n, size\)"),
    ],
)
def test_what_cannot_be_drawn_is_refused(parameters, message):
    with pytest.raises(ValueError, match=message):
        check_draws(parameters)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda rng: "a lot", "failed, or did not return one number: ValueError"),
        (lambda rng: None, "must return finite numbers, got nan"),
        (lambda rng: rng.nothing(), "failed, or did not return one number: AttributeError"),
        (lambda rng: [1.0, 2.0], r"must return one number, got the shape \[2\]. For a vector"),
        (lambda rng, n: rng.uniform(size=n + 1), r"must return 4 numbers, got the shape \[5\]"),
        (lambda rng, tasks: rng.uniform(), r"must return 4 numbers, got the shape \[\]"),
        (lambda rng: np.nan, "must return finite numbers, got nan"),
    ],
)
def test_what_functions_return_is_checked(function, message):
    with pytest.raises(ValueError, match=f"samples parameter 'mass' {message}"):
        draw(4, mass=function)
