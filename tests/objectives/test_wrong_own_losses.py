"""A user's own loss that does not do what it promises raises an error that says so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from conformance import make_encoder
from meta_batches import meta_batch, policy_loss
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.objectives import LossModule

from ctmrl_torchrl.objectives import MetaLoss, RepresentationLoss
from ctmrl_torchrl.training.schedule import total_loss

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


class OwnLoss(RepresentationLoss):
    """Promises two terms and writes what it is told."""

    @dataclass
    class _AcceptedKeys:
        task_context: Any = "task_context"

    default_keys = _AcceptedKeys
    out_keys = ["loss_pull", "loss_spread"]
    in_keys = ["task_context"]

    def __init__(self, write):
        super().__init__()
        self.write = write

    def forward(self, tensordict):
        return self.write(tensordict["task_context"].square())


class OwnPolicyLoss(LossModule):
    """Imitation under a name that it does not promise."""

    @dataclass
    class _AcceptedKeys:
        action: Any = "action"

    default_keys = _AcceptedKeys
    out_keys = ["loss_bc"]
    in_keys = ["observation", "task_context", "action"]

    def __init__(self):
        super().__init__()
        self.network = TensorDictModule(nn.Linear(2, 2), ["observation"], ["guess"])

    def _forward_value_estimator_keys(self, **kwargs):
        pass

    def forward(self, tensordict):
        error = self.network(tensordict)["guess"] - tensordict["action"]
        return TensorDict({"bc": error.square().mean()}, [])


def losses(write, policy="iql"):
    policy = policy_loss(policy) if isinstance(policy, str) else policy
    return MetaLoss(make_encoder(), OwnLoss(write), policy)(meta_batch())


def test_a_term_that_is_promised_and_not_written():
    with pytest.raises(ValueError) as error:
        losses(lambda x: TensorDict({"loss_pull": x.mean(), "spread": x.std()}, []))
    for part in (
        "OwnLoss: forward does not write 'loss_spread', which out_keys promise",
        "it writes 'loss_pull', 'spread'",
        "Did you mean 'spread'",
        "write it under that name, or remove it",
    ):
        assert part in str(error.value)
    both = losses(lambda x: TensorDict({"loss_pull": x.mean(), "loss_spread": x.std()}, []))
    assert {"loss_pull", "loss_spread", "loss_actor"} <= set(both.keys())


def test_a_term_of_a_policy_loss_that_is_not_written():
    with pytest.raises(ValueError, match="OwnPolicyLoss: forward does not write 'loss_bc'.*it writes 'bc'"):
        losses(lambda x: TensorDict({"loss_pull": x.mean(), "loss_spread": x.std()}, []), OwnPolicyLoss())


def test_a_loss_that_returns_a_tensor():
    with pytest.raises(
        TypeError, match=r"OwnLoss: forward returned a Tensor, expected a TensorDict .*loss_pull"
    ):
        losses(lambda x: x.mean())


@pytest.mark.parametrize("agents", [None, 2])
def test_a_term_that_is_not_one_number(agents):
    lead = [] if agents is None else [agents]
    terms = TensorDict({"loss_a": torch.zeros(lead), "error": torch.zeros(*lead, 3)}, lead)
    assert (total_loss(terms, agents) == 0).all()
    with pytest.raises(
        ValueError, match=r"term 'loss_b' has shape \[5, 7\], expected \[\], one number.*mean"
    ):
        total_loss(terms.set("loss_b", torch.zeros(*lead, 5, 7)), agents)


class SecondContextLoss(OwnLoss):
    in_keys = ["task_context", "task_context_positive"]


def test_a_second_context_that_nothing_computes():
    with pytest.raises(
        ValueError, match=r"SecondContextLoss reads 'task_context_positive'.*context_keys.*contexts"
    ):
        MetaLoss(make_encoder(), SecondContextLoss(None), policy_loss("iql"))


def test_the_nearest_key_is_named():
    batch = meta_batch()
    batch["context"].rename_key_("observation", "observations")
    loss = MetaLoss(make_encoder(), OwnLoss(None), policy_loss("iql"))
    with pytest.raises(KeyError, match=r"Did you mean \('context', 'observations'\)\?"):
        loss(batch)


def test_an_encoder_of_another_size_than_told():
    loss = MetaLoss(make_encoder(), OwnLoss(None), policy_loss("iql"), context_dim=3)
    with pytest.raises(
        ValueError, match="ContextEncoder wrote 4 numbers per context in key 'task_context', expected 3"
    ):
        loss(meta_batch())


def test_a_loss_without_in_keys_is_told_to_define_them():
    class Mine(RepresentationLoss):
        out_keys = ["loss_mine"]

        def forward(self, tensordict):
            return TensorDict({"loss_mine": tensordict["task_context"].mean()}, [])

    with pytest.raises(TypeError, match="Mine has no in_keys; define them"):
        MetaLoss(make_encoder(), Mine(), policy_loss())
