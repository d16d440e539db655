"""The update as it is run equals the update spelled out: part by part, one parameter at a time."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_experiments import tiny_config

from ctmrl_torchrl.methods import Parts, ReleasedConfig
from ctmrl_torchrl.objectives.policy import IQLConfig
from ctmrl_torchrl.training.experiment import build_experiment

KINDS = {
    "brac_sac": {},
    "iql": {"policy_loss": IQLConfig(hidden=[8])},
    "released": {"representation": ReleasedConfig(codes=2, predictor_hidden=[8])},
}


def plain_losses(loss, batch):
    """Representation first, with its own backward; then the context anew, and the policy's losses in turn."""
    found = {}
    for part in ("policy_frozen", "representation_frozen"):
        setattr(loss, part, True)
        out = loss(batch)
        setattr(loss, part, False)
        terms = [name for name in out.keys() if name.startswith("loss_")]  # noqa: SIM118
        for name in terms:
            if out[name].requires_grad:
                out[name].backward(retain_graph=True)
        found |= {name: out[name].detach() for name in terms}
    return found


def plain_targets(loss, rate):
    """Every target moves a little towards the parameter of its name."""
    for name, target in loss.policy.named_children():
        if name.startswith("target_"):
            source = getattr(loss.policy, name.removeprefix("target_"))
            for key, value in target.items(True, True):
                value.data.copy_((1 - rate) * value.data + rate * source.get(key).data)


@pytest.mark.parametrize("kind", KINDS)
def test_fast_updates_equal_plain_ones(kind, dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path, **KINDS[kind])
    trainer = build_experiment(config).trainer
    trainer.begin()
    trainer.schedule, trainer.parts = None, Parts([])
    trainer.loss.representation.warm_up = False
    plain = copy.deepcopy(trainer.loss)
    groups = [
        [*plain.context_encoder.parameters(), *plain.representation.parameters()],
        list(plain.policy.parameters()),
    ]
    rates = [group["lr"] for group in trainer.optimizer.param_groups]
    groups = [{"params": group, "lr": rate} for group, rate in zip(groups, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, foreach=False, fused=False)
    for update in range(4):
        batch = trainer.next_batch()
        torch.manual_seed(update)
        fast = trainer.update(batch)
        torch.manual_seed(update)
        expected = plain_losses(plain, batch)
        optimizer.step()
        optimizer.zero_grad()
        plain_targets(plain, config.policy_loss.target_rate)
        for name, value in expected.items():
            torch.testing.assert_close(fast[name], value, rtol=1e-4, atol=1e-5)
    state = plain.state_dict()
    for name, value in trainer.loss.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=1e-3, atol=1e-5)
