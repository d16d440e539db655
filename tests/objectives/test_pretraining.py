"""A stage of its own before meta-training, interrupted and not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ctmrl_torchrl.objectives.pretraining import Pretraining


def stage(seed=0, steps=20):
    torch.manual_seed(seed)
    network = nn.Linear(3, 1)

    def loss(generator):
        inputs = torch.randn(8, 3, generator=generator)
        return (network(inputs) - inputs.sum(-1, keepdim=True)).square().mean()

    return Pretraining(network, loss, steps, generator=torch.Generator().manual_seed(seed), rate=0.01)


def test_an_interrupted_stage_goes_on_to_the_same_numbers(tmp_path):
    through = stage()
    through.run()
    first = stage()
    first.run(7)
    assert first.step == 7 and not first.done
    torch.save(first.state_dict(), tmp_path / "stage.pt")
    second = stage(seed=5)
    second.load_state_dict(torch.load(tmp_path / "stage.pt", weights_only=True))
    second.run()
    assert second.done and second.step == 20
    torch.testing.assert_close(second.module.weight, through.module.weight, rtol=0, atol=0)
    before = through.module.weight.clone()
    through.run()
    assert torch.equal(through.module.weight, before)


def test_steps_are_those_of_adam():
    ours, theirs = stage(), stage()
    ours.run()
    optimizer, total = torch.optim.Adam(theirs.module.parameters(), 0.01), 0.0
    for _ in range(20):
        optimizer.zero_grad()
        loss = theirs.loss(theirs.generator)
        loss.backward()
        optimizer.step()
        total += loss.item()
    torch.testing.assert_close(ours.module.weight, theirs.module.weight)
    assert ours.last_loss == pytest.approx(total / 20)


def test_a_loss_that_is_not_finite_stops_the_stage():
    broken = stage()
    broken.loss = lambda generator: broken.module.weight.sum() * torch.inf
    with pytest.raises(FloatingPointError, match="not finite after 20 steps"):
        broken.run()
