from __future__ import annotations

import pytest
import torch
from tensordict import LazyStackedTensorDict, NonTensorData, TensorDict

from ctmrl_torchrl.envs.stacking import stack_steps


def step(t, **others):
    entries = {
        "a": torch.full((3, 2), float(t)),
        "next": TensorDict({"b": torch.full((3,), t)}, [3]),
        **others,
    }
    return TensorDict(entries, [3])


def test_steps_are_stacked_whatever_the_order_of_their_entries():
    steps = [step(0), TensorDict(dict(reversed(list(step(1).items()))), [3])]
    found = stack_steps(steps, 1)
    assert found.batch_size == (3, 2) and found["next"].batch_size == (3, 2)
    assert found["a"][0].tolist() == [[0, 0], [1, 1]] and found["next", "b"].tolist() == [[0, 1]] * 3
    assert stack_steps(steps, 0)["a"].shape == (2, 3, 2)


@pytest.mark.parametrize(
    "steps",
    {
        "another entry": [step(0), step(1, c=torch.zeros(3))],
        "another shape": [step(0, c=torch.zeros(3, 1)), step(1, c=torch.zeros(3, 2))],
        "no tensor": [step(0, c=NonTensorData("x", [3])), step(1, c=NonTensorData("y", [3]))],
        "another nested entry": [step(0), step(1).set(("next", "c"), torch.zeros(3))],
        "names": [step(0).refine_names("robot"), step(1).refine_names("robot")],
    }.values(),
)
def test_unlike_steps_are_stacked_by_tensordict(steps):
    found = stack_steps(steps, 1)
    expected = LazyStackedTensorDict.maybe_dense_stack(steps, 1)
    assert type(found) is type(expected) and found.batch_size == expected.batch_size
    assert found.names == expected.names
    assert torch.equal(found["a"], expected["a"])
