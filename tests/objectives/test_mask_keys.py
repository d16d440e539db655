"""Padding under any key, in every place that reads it."""

from __future__ import annotations

import pytest
import torch
from conformance import policy_batch
from meta_batches import FEATURES, meta_batch, policy_loss

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import MetaLoss, MetricLoss, NoRepresentationLoss

VALID = torch.arange(7) < torch.tensor([[3], [7], [1], [5], [2]])


def value_loss(choice, name):
    torch.manual_seed(2)
    encoder = modules.make_context_encoder(
        feature_dims=FEATURES,
        context_dim=4,
        hidden=[8],
        mask_key=("context", *name),
        transition_key="transition_contexts",
    )
    loss = MetaLoss(encoder, NoRepresentationLoss(), policy_loss(), critic_gradient=choice)
    batch = meta_batch().set(("context", *name), VALID)
    torch.manual_seed(3)
    return loss(batch)["loss_qvalue"]


@pytest.mark.parametrize("name", [("mask",), ("valid",), ("flags", "valid")], ids=".".join)
def test_the_critic_sees_the_same_contexts_whatever_its_gradient_reaches(name):
    expected = value_loss("none", ("mask",))
    for choice in ("none", "pooling", "all"):
        torch.testing.assert_close(value_loss(choice, name), expected)


def test_a_mask_that_is_not_below_the_context_is_refused():
    encoder = modules.make_context_encoder(feature_dims=FEATURES, context_dim=4, hidden=[8], mask_key="valid")
    loss = MetaLoss(encoder, MetricLoss(), policy_loss())
    with pytest.raises(ValueError, match=r"mask_key is 'valid'.*not below the context 'context'.*'mask'\)"):
        loss.encode(meta_batch().set("valid", VALID), "context")


@pytest.mark.parametrize("kind", ["brac_sac", "brac_sac_penalty", "iql", "sac", "td3_bc", "bc"])
def test_no_output_of_a_policy_loss_depends_on_masked_rows(kind):
    torch.manual_seed(1)
    loss = policy_loss(kind)
    batch = policy_batch(6).set(("collector", "mask"), torch.arange(6) < 4)
    other = batch.clone()
    other["action"][4:], other["observation"][4:] = 0.999, 50.0
    outputs = []
    for each in (batch, other):
        torch.manual_seed(5)
        loss.eval()
        outputs.append(loss(each))
    assert outputs[0].keys() == outputs[1].keys()
    for name in outputs[0].keys():  # noqa: SIM118
        torch.testing.assert_close(outputs[0][name], outputs[1][name])
