"""A whole update as one function of its batch; on a GPU, captured and replayed by ``CudaGraphModule``."""

from __future__ import annotations

import pytest
import torch
from conformance import CASES, POLICY_KINDS, is_loss, seeded
from tensordict.nn import CudaGraphModule
from torchrl.objectives import SoftUpdate

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]


def make_update(kind, device):
    """Losses, backward pass, optimiser and moving targets in one function that never waits for a GPU."""
    loss = CASES[f"ctmrl_{kind}"].build().train().to(device)
    targets = SoftUpdate(loss, tau=0.005)
    optimiser = torch.optim.Adam(loss.parameters(), 3e-3, capturable=device == "cuda")

    def update(batch):
        losses = loss(batch)
        sum(value for name, value in losses.items() if is_loss(name)).backward()
        optimiser.step()
        optimiser.zero_grad()
        targets.step()
        return losses.detach()

    return loss, CudaGraphModule(update, warmup=3) if device == "cuda" else update


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", POLICY_KINDS)
def test_an_update_is_a_function_of_its_batch(kind, device):
    loss, update = make_update(kind, device)
    batch = CASES[f"ctmrl_{kind}"].batch().to(device)
    before = {name: value.detach().clone() for name, value in loss.named_parameters()}
    history = seeded(lambda: [update(batch.clone()).clone() for _ in range(40)])
    for name in ("loss_prediction", "loss_qvalue"):
        values = torch.stack([losses[name] for losses in history])
        assert values[-4:].mean() < 0.95 * values[:4].mean(), name
    moved = {name for name, value in loss.named_parameters() if not torch.equal(value, before[name])}
    trained = {name for name, value in loss.named_parameters() if value.requires_grad}
    assert moved and moved <= trained
    assert {name.split(".")[0] for name in moved} == {name.split(".")[0] for name in trained}
