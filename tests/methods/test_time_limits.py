"""A time limit as a terminal state: every registered critic stops bootstrapping there."""

from __future__ import annotations

import pytest
import torch
from registered import Composition, meta_batch

from ctmrl_torchrl.objectives.policy import POLICY_LOSSES

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def losses(policy_loss, batch, timeout_is_terminal):
    options = (("timeout_is_terminal", timeout_is_terminal),)
    loss = Composition(representation="nothing", policy_loss=policy_loss, policy_options=options).build()
    torch.manual_seed(0)
    return loss.eval()(batch)


@pytest.mark.parametrize("policy_loss", POLICY_LOSSES)
def test_a_time_limit_counts_as_a_terminal_state_on_request(policy_loss):
    batch = meta_batch()
    flags = batch["transitions", "next"]
    flags["done"] = torch.zeros_like(flags["done"])
    flags["done"][:, -2:] = True
    flags["terminated"] = torch.zeros_like(flags["done"])
    ended = batch.clone()
    ended["transitions", "next", "terminated"] = flags["done"].clone()
    expected = losses(policy_loss, ended, False)
    torch.testing.assert_close(losses(policy_loss, batch, True), expected)
    if policy_loss != "bc":
        assert losses(policy_loss, batch, False)["loss_qvalue"] != expected["loss_qvalue"]
