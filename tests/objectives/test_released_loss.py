"""The released code's objective as a whole, within MetaLoss."""

from __future__ import annotations

import pytest
import torch
from conformance import make_released_meta, released_batch
from meta_batches import FEATURES, meta_batch

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import MetaLoss
from ctmrl_torchrl.objectives.representation import club_bound, metric_loss, squared_distance


def seeded_meta(**options):
    torch.manual_seed(0)
    return make_released_meta("brac_sac", **options)


def test_the_cycle_goes_through_the_matched_code():
    loss, batch = seeded_meta().eval(), meta_batch()
    out = loss(batch)
    representation, context = loss.representation, batch["context"]
    task_context = loss.encode(batch, "context")
    codes = representation.codebook.codes
    cosines = torch.cosine_similarity(task_context.unsqueeze(1), codes.unsqueeze(0), dim=-1)
    code = codes[cosines.argmax(-1)]
    rewards = representation.reward_predictor(
        observation=context["observation"],
        action=context["action"],
        task_context=code.unsqueeze(1).expand(-1, 7, -1),
    )
    again = batch.clone()
    again["context", "next", "reward"] = rewards
    torch.testing.assert_close(
        out["loss_cycle"], squared_distance(loss.encode(again, "context"), code).mean()
    )
    commitment = 0.25 * squared_distance(task_context, code).mean()
    torch.testing.assert_close(out["loss_commitment"], commitment)
    torch.testing.assert_close(out["loss_metric"], 10.0 * metric_loss(task_context).mean())


def test_the_bound_is_of_what_the_encoder_makes_of_single_transitions():
    loss, batch = seeded_meta(club_weight=3.0).eval(), meta_batch()
    context = batch["context"]
    single = batch["context"].reshape(35, 1)
    encoded = loss.context_encoder(batch.new_zeros(35).empty().set("context", single))["task_context"]
    guess = loss.representation.behaviour_posterior(
        observation=context["observation"], action=context["action"]
    )
    expected = club_bound(*guess, encoded.reshape(5, 7, 4)).mean()
    torch.testing.assert_close(loss(batch)["loss_club"], 3.0 * expected)


def test_the_warm_up_leaves_the_codebook_alone():
    loss, batch = seeded_meta().train(), meta_batch()
    loss.representation.warm_up = True
    assert not loss.needs_positive
    codes = loss.representation.codebook.codes
    before = codes.detach().clone()
    out = loss(batch.exclude("context_positive"))
    sum(value for name, value in out.items() if name.startswith("loss_")).backward()
    assert codes.grad is None and torch.equal(codes, before)
    assert all(p.grad.any() for p in loss.context_encoder.parameters())
    for name in ("loss_cycle", "loss_commitment", "loss_code_contrast", "loss_contrastive"):
        assert out[name] == 0


def test_an_encoder_without_transition_contexts_is_named():
    released = seeded_meta()
    encoder = modules.make_context_encoder(feature_dims=FEATURES, context_dim=4, hidden=(8,))
    loss = MetaLoss(encoder, released.representation, released.policy)
    with pytest.raises(ValueError, match="transition_key='transition_contexts'"):
        loss(meta_batch())


def test_transition_contexts_of_another_size_are_refused():
    batch = released_batch()
    batch["transition_contexts"] = torch.randn(5, 7, 9)
    with pytest.raises(ValueError, match="encoder.pool=mean"):
        seeded_meta().representation(batch)


def test_padding_has_no_influence():
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]
    results = []
    for filling in (0.0, 100.0):
        loss, batch = seeded_meta(extra_negatives=4), meta_batch(mask=mask)
        for name in ("context", "context_positive"):
            for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
                batch[name].get(key)[~mask] = filling
        torch.manual_seed(1)
        out = loss(batch)
        sum(value for name, value in out.items() if name.startswith("loss_")).backward()
        results.append([*out.detach().values(), *(p.grad for p in loss.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_renamed_contexts_are_handed_on_under_their_names():
    reference, batch = seeded_meta(extra_negatives=4).eval(), meta_batch()
    torch.manual_seed(1)
    expected = reference(batch)
    loss = seeded_meta(extra_negatives=4, transition_key=("one", "by one")).eval()
    loss.set_keys(transition_contexts=("one", "by one"), task_context_reconstructed="again")
    assert loss.representation.tensor_keys.task_context_reconstructed == "again"
    torch.manual_seed(1)
    for name, value in loss(batch).items():
        torch.testing.assert_close(value, expected[name])


def test_the_bilinear_form_is_a_constant_of_the_right_shape():
    given = torch.nn.Parameter(torch.randn(4, 4))
    representation = seeded_meta(bilinear=given).representation
    assert not representation.bilinear.requires_grad and torch.equal(representation.bilinear, given)
    with pytest.raises(ValueError, match="bilinear has shape"):
        seeded_meta(bilinear=torch.eye(3))
