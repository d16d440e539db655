"""Decoders whose in-keys are in another order, and entries that a loss must not take for its own."""

from __future__ import annotations

import pytest
import torch
from conformance import make_encoder, policy_loss
from meta_batches import meta_batch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn

from ctmrl_torchrl.modules.decoders import GaussianHead, make_preference_reward
from ctmrl_torchrl.objectives import MetaLoss
from ctmrl_torchrl.objectives.representation.anole import PreferenceLoss
from ctmrl_torchrl.objectives.representation.gentle import TaskAutoencoderLoss
from ctmrl_torchrl.objectives.representation.unicorn import UNICORNLoss

VALUES = {"observation": 1.0, "action": 2.0, "task_context": 3.0}


class Witness(nn.Module):
    """Notes the value of each input; all have two features here, so sizes tell nothing."""

    def __init__(self, size=1):
        super().__init__()
        self.weight, self.size, self.seen = nn.Parameter(torch.zeros(1)), size, []

    def forward(self, *inputs):
        self.seen = [value.unique().item() for value in inputs]
        return self.weight + torch.zeros(*inputs[0].shape[:-1], self.size)


def batch():
    def draw():
        filled = {name: torch.full((3, 5, 2), VALUES[name]) for name in ("observation", "action")}
        following = {"reward": torch.zeros(3, 5, 1), "observation": torch.ones(3, 5, 2)}
        return filled | {"next": following}

    contexts = {"task_context": torch.full((3, 2), VALUES["task_context"]), "task_id": torch.arange(3)}
    return TensorDict({"context": draw(), "context_positive": draw(), **contexts}, [3])


def gentle(in_keys):
    witness = Witness()
    return witness, TaskAutoencoderLoss(TensorDictModule(witness, in_keys, ["reward_prediction"]))


def anole(in_keys):
    witness = Witness()
    return witness, PreferenceLoss(TensorDictModule(witness, in_keys, ["reward_prediction"]))


def unicorn(in_keys):
    witness = Witness(2)
    change = TensorDictModule(GaussianHead(Witness(4), 2), in_keys, ["change", "change_log_variance"])
    reward = TensorDictModule(GaussianHead(witness, 1), in_keys, ["reward", "reward_log_variance"])
    return witness, UNICORNLoss(change, reward)


@pytest.mark.parametrize("make", [gentle, anole, unicorn])
@pytest.mark.parametrize(
    "in_keys", [["observation", "action", "task_context"], ["task_context", "action", "observation"]]
)
@pytest.mark.parametrize("renamed", [False, True])
def test_inputs_are_found_by_name(make, in_keys, renamed):
    witness, loss = make(in_keys)
    data = batch()
    if renamed:
        loss.set_keys(task_context="z")
        data.rename_key_("task_context", "z")
    loss(data)
    assert witness.seen == [VALUES[key] for key in in_keys]


@pytest.mark.parametrize("make", [gentle, anole, unicorn])
def test_other_names_count_by_their_place(make):
    witness, loss = make(["s", "a", "z"])
    loss(batch())
    assert witness.seen == list(VALUES.values())


def preferences():
    torch.manual_seed(1)
    sizes = {"observation_dim": 2, "action_dim": 2, "context_dim": 4}
    return PreferenceLoss(make_preference_reward(**sizes, hidden=[8]))


def test_padding_of_any_value_says_nothing_about_preferences():
    data, lengths = meta_batch(), torch.tensor([[3], [7], [2], [5], [2]])
    data["task_context"] = torch.randn(5, 4)
    losses = []
    for filler in (0.0, float("nan"), 1e30):
        padded = data.clone()
        for name in ("context", "context_positive"):
            padded[name, "mask"] = torch.arange(7) < lengths
            reward = padded[name, "next", "reward"]
            padded[name, "next", "reward"] = torch.where(padded[name, "mask"].unsqueeze(-1), reward, filler)
        torch.manual_seed(3)
        losses.append(preferences()(padded).to_dict())
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(losses[2], losses[0])


def test_contexts_in_the_input_are_not_those_of_the_batch():
    torch.manual_seed(0)
    loss, data = MetaLoss(make_encoder(), preferences(), policy_loss("iql")), meta_batch()
    data["task_context_mean"] = torch.full((5, 4), 3.0)
    data["task_context_log_std"] = torch.zeros(5, 4)
    losses = loss(data)
    assert losses["loss_divergence"] == 0.0
    assert (data["task_context_mean"] == 3.0).all()
