"""The codes of an episode are computed once, and pooling them gives what encoding everything again gives."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.collectors.encoding import EvidenceEncoder
from ctmrl_torchrl.modules import make_context_encoder
from ctmrl_torchrl.modules.context_encoder import ContextEncoder

FEATURES = {("context", "observation"): 3, ("context", "next", "terminated"): 1}
KEYS = {"context_key": "task_context", "evidence_key": "context", "task_key": "task_id"}


def episodes(number, rows=4, horizon=6, masked=True):
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(number):
        entries = {"observation": torch.randn(rows, horizon, 3, generator=generator)}
        entries["next"] = {"terminated": torch.zeros(rows, horizon, 1, dtype=torch.bool)}
        if masked:
            entries["mask"] = torch.rand(rows, horizon, generator=generator) < 0.7
        made.append(TensorDict(entries, [rows, horizon]))
    return made


@pytest.mark.parametrize("pool", ["mean", "mean_mlp", "attention"])
@pytest.mark.parametrize("masked", [True, False])
def test_pooled_codes_are_the_encoding_of_all_episodes(pool, masked):
    torch.manual_seed(0)
    encoder = make_context_encoder(feature_dims=FEATURES, context_dim=4, hidden=(16, 16), pool=pool)
    evidence, tasks = EvidenceEncoder(encoder, **KEYS), torch.arange(4)
    assert evidence.pools_codes
    seen = episodes(3, masked=masked)
    with torch.no_grad():
        pooled = evidence.pool([evidence.codes(episode, tasks) for episode in seen])
        torch.testing.assert_close(pooled, evidence.encode(seen, tasks))
        assert not torch.allclose(pooled, evidence.encode(seen[:2], tasks))


@pytest.mark.parametrize("last", ["tanh", "linear", "unit"])
def test_codes_of_every_encoder_that_does_not_draw_are_reused(last):
    statistics = torch.zeros(7), torch.ones(7)
    features = FEATURES | {("context", "next", "observation"): 3}
    options = {"feature_statistics": statistics, "relative": (slice(4, 7), slice(0, 3))}
    encoder = make_context_encoder(feature_dims=features, context_dim=4, last=last, **options)
    assert EvidenceEncoder(encoder, **KEYS).pools_codes


class Compared(nn.Module):
    """Codes of transitions relative to the others of the context."""

    def forward(self, features):
        return features - features.mean(-2, keepdim=True).square()


class Whole(ContextEncoder):
    """May look at all transitions at once."""


def test_encoders_that_draw_or_may_look_elsewhere_encode_everything_again():
    noisy = make_context_encoder(feature_dims=FEATURES, context_dim=4, last="noisy")
    own = Whole(nn.Linear(4, 2), in_keys=list(FEATURES))
    hooked = make_context_encoder(feature_dims=FEATURES, context_dim=4)
    hooked.register_forward_hook(lambda *arguments: None)
    reads_task = ContextEncoder(nn.Linear(4, 2), in_keys=[*FEATURES, "task_id"])
    compared = ContextEncoder(nn.Sequential(Compared(), nn.Linear(4, 2)), in_keys=list(FEATURES))
    encoders = (noisy, own, hooked, reads_task, compared)
    assert not any(EvidenceEncoder(each, **KEYS).pools_codes for each in encoders)
