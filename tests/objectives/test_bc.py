"""Behavior cloning: the squared error of the deterministic action, whose gradient reaches the actor alone."""

from __future__ import annotations

import warnings

import pytest
import torch
from conformance import policy_batch, run
from meta_batches import SIZES, policy_loss
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.objectives import BCLoss

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives.policy import ActingPolicy, BCConfig, make_bc_loss


def test_the_value_by_hand():
    loss, batch = policy_loss("bc"), policy_batch(4, 6)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        action = ActingPolicy(loss)(batch.clone())["action"]
    pairs = zip(action.flatten().tolist(), batch["action"].flatten().tolist(), strict=True)
    assert run(loss, batch)["loss_bc"].item() == pytest.approx(sum((a - b) ** 2 for a, b in pairs) / 48)


def test_nothing_is_warned_about():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(policy_loss("bc"), policy_batch(4, 6))


def test_it_is_torchrls_of_the_deterministic_action():
    torch.manual_seed(0)
    actor = modules.make_actor(action_dim=2, **SIZES)
    ours, theirs, batch = make_bc_loss(actor), BCLoss(actor, loss_function="l2"), policy_batch(4, 6)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        expected = run(theirs, batch)["loss_bc"]
    with set_exploration_type(ExplorationType.RANDOM):
        torch.testing.assert_close(run(ours, batch)["loss_bc"], expected)


def test_only_observations_contexts_and_actions_are_read():
    loss, batch = policy_loss("bc"), policy_batch(4, 6)
    assert loss.in_keys == ["action", "observation", "task_context"]
    assert run(loss, batch)["loss_bc"] == run(loss, batch.exclude("next"))["loss_bc"]
    with pytest.raises(KeyError, match="OfflineBCLoss.*task_context"):
        run(loss, batch.exclude("task_context"))


def test_padding_has_no_influence():
    loss, batch = policy_loss("bc"), policy_batch(4, 6)
    expected = run(loss, batch[:, :4])["loss_bc"]
    batch["collector", "mask"] = torch.arange(6).lt(4).reshape(1, 6, 1).expand(4, 6, 1)
    batch["action"][:, 4:] = 1e6
    torch.testing.assert_close(run(loss, batch)["loss_bc"], expected)


def test_an_actor_of_another_size_is_refused():
    loss = make_bc_loss(modules.make_actor(action_dim=3, **SIZES))
    with pytest.raises(
        ValueError, match=r"OfflineBCLoss: the actor's action has shape \[4, 6, 3\], expected"
    ):
        run(loss, policy_batch(4, 6))
    with pytest.raises(ValueError, match="reduction='median' is unknown"):
        policy_loss("bc", reduction="median")


def test_there_are_no_targets_to_update():
    loss = policy_loss("bc")
    before = {name: value.clone() for name, value in loss.state_dict().items() if torch.is_tensor(value)}
    BCConfig().target_update(loss).step()
    assert all((loss.state_dict()[name] == value).all() for name, value in before.items())
    assert not [name for name, _ in loss.named_children() if name.startswith("target_")]
