"""The probe finds what contexts know, and nothing where they know nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV

from ctmrl_torchrl.evaluation import parameters_behind_returns, probe_parameters

TRAIN, TEST = range(30), range(30, 40)


def contexts_of(parameters, noise=0.01, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(parameters.shape[1], 8, generator=generator)
    clean = (parameters.float() @ mixing)[:, None].expand(-1, 3, -1)
    return clean + noise * torch.randn(clean.shape, generator=generator)


@pytest.fixture
def parameters():
    return torch.randn(40, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_parameters_in_the_contexts_are_found_in_any_unit(parameters):
    seen, units = parameters[:, :2], torch.tensor([1e-4, 1.0, 1.0, 1e5], dtype=torch.float64)
    known = probe_parameters(contexts_of(seen), parameters * units, TRAIN, TEST)
    assert (known[:2] > 0.99).all() and (known[2:] < 0.3).all()


def test_the_score_is_of_unseen_tasks_only(parameters):
    """Contexts that name each training task determine its parameters there, and nothing about others."""
    names = torch.eye(40, dtype=torch.float64)[:, None].expand(-1, 2, -1)
    assert (probe_parameters(names, parameters, TRAIN, TEST) < 0.1).all()


def test_against_a_regression_written_out(parameters):
    contexts, target = contexts_of(parameters, noise=0.5), parameters[:, :1]
    x = contexts.double().numpy()
    flat = x[:30].reshape(90, -1)
    centre, scale = flat.mean(0), flat.std(0)
    y = target[:30].numpy().repeat(3, axis=0)
    fitted = RidgeCV(np.logspace(-3, 3, 13)).fit((flat - centre) / scale, y / target[:30].numpy().std())
    predicted = fitted.predict((x[30:].reshape(30, -1) - centre) / scale).reshape(30, -1)
    truth = target[30:].numpy().repeat(3, axis=0) / target[:30].numpy().std()
    expected = 1 - ((truth - predicted) ** 2).sum() / ((truth - truth.mean()) ** 2).sum()
    assert probe_parameters(contexts, target, TRAIN, TEST).item() == pytest.approx(expected)


def test_a_parameter_that_does_not_differ_is_nan(parameters):
    parameters[:, 1] = 2.0
    known = probe_parameters(contexts_of(parameters), parameters, TRAIN, TEST)
    assert known.isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, p: (c[:, 0], p, TRAIN, TEST), r"contexts must be \[tasks, repeats, d\]"),
        (lambda c, p: (c[:-1], p, TRAIN, TEST), "of the same tasks"),
        (lambda c, p: (c * float("nan"), p, TRAIN, TEST), "not finite"),
        (lambda c, p: (c, p, range(2), TEST), "three training and two test tasks, got 2 and 10"),
    ],
)
def test_wrong_use(change, message, parameters):
    with pytest.raises(ValueError, match=message):
        probe_parameters(*change(contexts_of(parameters), parameters))


def test_the_parameter_that_decides_a_return_is_found(parameters):
    names = ["mass", "length", "damping", "friction"]
    returns = -(parameters[:, 3] ** 3) + 0.01 * torch.randn(40, dtype=torch.float64)
    found = parameters_behind_returns(parameters, returns, names)
    assert list(found)[0] == "friction" and found["friction"] < -0.9
    returns[7] = float("nan")  # a task without a return
    assert parameters_behind_returns(parameters, returns, names)["friction"] < -0.9


def test_chance_among_many_parameters_is_not_reported():
    """Of 58 unrelated parameters, about three are below 0.05 by themselves."""
    generator = torch.Generator().manual_seed(3)
    found = [
        parameters_behind_returns(
            torch.randn(40, 58, generator=generator), torch.randn(40, generator=generator), range(58)
        )
        for _ in range(20)
    ]
    assert sum(map(bool, found)) <= 3


def test_without_differences_nothing_is_behind_returns():
    parameters = torch.arange(12.0).reshape(6, 2)
    assert parameters_behind_returns(parameters, torch.ones(6), ["a", "b"]) == {}
    assert parameters_behind_returns(torch.ones(6, 2), torch.arange(6.0), ["a", "b"]) == {}
    assert parameters_behind_returns(parameters[:4], torch.arange(4.0), ["a", "b"]) == {}
    assert parameters_behind_returns(torch.empty(6, 0), torch.arange(6.0), []) == {}
