from __future__ import annotations

import pytest
import torch
from conformance import make_meta
from meta_batches import SIZES, ctmrl_loss, meta_batch, policy_loss, predictors
from tensordict import TensorDict
from torchrl.objectives import SoftUpdate

from ctmrl_torchrl import modules
from ctmrl_torchrl.objectives import BRACSACLoss, CQVAELoss, MetaLoss

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

KINDS = ["brac_sac", "brac_sac_penalty", "iql"]
REPRESENTATION = ("loss_prediction", "loss_cross_prediction", "loss_code", "loss_contrastive")
POLICY = ("loss_actor", "loss_qvalue", "loss_value")
REACHED = {
    "loss_prediction": {"encoder", "predictors"},
    "loss_cross_prediction": {"codes", "predictors"},
    "loss_code": {"encoder", "codes"},
    "loss_contrastive": {"encoder"},
    "loss_actor": {"actor"},
    "loss_qvalue": {"qvalue"},
    "loss_value": {"value"},
    "loss_behaviour_critic": {"behaviour_critic"},
}


def parameter_groups(loss):
    policy, representation = loss.policy, loss.representation
    found = {
        "encoder": list(loss.context_encoder.parameters()),
        "codes": [representation.codebook.codes],
        "predictors": [
            *representation.reward_predictor.parameters(),
            *representation.next_observation_predictor.parameters(),
        ],
        "actor": list(policy.actor_network_params.values(True, True)),
        "qvalue": list(policy.qvalue_network_params.values(True, True)),
        "value": list(policy.value_network_params.values(True, True)),
    }
    if getattr(policy, "behaviour_critic", None) is not None:
        found["behaviour_critic"] = list(policy.behaviour_critic.parameters())
    return found


def run(loss, batch, seed=3):
    torch.manual_seed(seed)
    return loss(batch)


@pytest.mark.parametrize("kind", KINDS)
def test_each_term_reaches_exactly_its_parameters(kind):
    loss = ctmrl_loss(kind, extra_negatives=4)
    out = run(loss, meta_batch())
    groups = parameter_groups(loss)
    terms = [name for name in out.keys() if name.startswith("loss_")]  # noqa: SIM118
    assert set(terms) == {*REPRESENTATION, *POLICY} | (
        {"loss_behaviour_critic"} if kind == "brac_sac_penalty" else set()
    )
    for name in terms:
        reached = set()
        for group, parameters in groups.items():
            grads = torch.autograd.grad(out[name], parameters, retain_graph=True, allow_unused=True)
            if any(grad is not None and grad.abs().sum() > 0 for grad in grads):
                reached.add(group)
        assert reached == REACHED[name], name
    assert not any(value.requires_grad for name, value in out.items() if name not in terms)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sum_reaches_every_parameter_and_no_target(kind):
    loss = ctmrl_loss(kind, extra_negatives=4)
    out = run(loss, meta_batch())
    sum(value for name, value in out.items() if name.startswith("loss_")).backward()
    silent = [name for name, p in loss.named_parameters() if p.grad is None or p.grad.abs().sum() == 0]
    assert silent == []
    assert sum(p.numel() for p in loss.parameters()) == sum(
        p.numel() for group in parameter_groups(loss).values() for p in group
    )


def test_it_is_the_sum_of_its_parts_on_the_detached_context():
    loss, batch = ctmrl_loss("iql", extra_negatives=4).eval(), meta_batch()
    out = run(loss, batch)
    anchor, positive = (loss.encode(batch, key) for key in ("context", "context_positive"))
    work = batch.copy().set("task_context", anchor).set("task_context_positive", positive)
    for name, value in loss.representation(work).items():
        torch.testing.assert_close(out[name], value)
    td = batch["transitions"].clone()
    td["task_context"] = td["next", "task_context"] = anchor.detach().unsqueeze(1).expand(5, 6, 4)
    for name, value in loss.policy(td).items():
        torch.testing.assert_close(out[name], value)


@pytest.mark.parametrize("kind", ["brac_sac", "iql"])
def test_a_frozen_representation_is_neither_trained_nor_needed(kind):
    loss, batch = ctmrl_loss(kind).train(), meta_batch()
    reference = run(loss.eval(), batch)
    loss.train().representation_frozen = True
    codes = loss.representation.codebook.codes.detach().clone()
    assert not loss.needs_positive
    out = run(loss, batch.exclude("context_positive"))
    assert set(POLICY) <= set(out.keys()) and not set(REPRESENTATION) & set(out.keys())
    torch.testing.assert_close(out["loss_qvalue"], reference["loss_qvalue"])  # the one term without noise
    sum(out[name] for name in POLICY).backward()
    groups = parameter_groups(loss)
    assert all(p.grad is None for name in ("encoder", "codes", "predictors") for p in groups[name])
    assert torch.equal(codes, loss.representation.codebook.codes)
    assert torch.is_grad_enabled()


def test_a_frozen_policy_is_left_out():
    loss, batch = ctmrl_loss(extra_negatives=4), meta_batch()
    loss.policy_frozen = True
    out = run(loss, batch.exclude("transitions"))
    assert set(out.keys()) == set(loss.representation.out_keys)
    out["loss_prediction"].backward()
    assert all(p.grad is not None for p in loss.context_encoder.parameters())


def test_warm_up_trains_encoder_predictors_and_policy_only():
    loss, batch = ctmrl_loss().train(), meta_batch()
    assert loss.needs_positive
    loss.representation.warm_up = True
    assert not loss.needs_positive
    codes = loss.representation.codebook.codes.detach().clone()
    out = run(loss, batch.exclude("context_positive"))
    sum(value for name, value in out.items() if name.startswith("loss_")).backward()
    groups = parameter_groups(loss)
    assert groups["codes"][0].grad is None and torch.equal(codes, groups["codes"][0])
    assert all(p.grad is not None for name in ("encoder", "predictors", "actor") for p in groups[name])


def test_no_gradient_mode_is_respected():
    with torch.no_grad():
        out = run(ctmrl_loss(), meta_batch())
    assert not any(value.requires_grad for value in out.values())


@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_left_unchanged(kind):
    batch = meta_batch(mask=torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None])
    before = batch.clone()
    run(ctmrl_loss(kind), batch)
    assert set(batch.keys(True, True)) == set(before.keys(True, True)) and (batch == before).all()


def test_padding_has_no_influence():
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]
    results = []
    for filling in (0.0, 100.0):
        loss, batch = ctmrl_loss(extra_negatives=4), meta_batch(mask=mask)
        for draw in ("context", "context_positive"):
            for key in ("observation", "action", ("next", "reward"), ("next", "observation")):
                batch[draw].get(key)[~mask] = filling
        out = run(loss, batch)
        sum(value for name, value in out.items() if name.startswith("loss_")).backward()
        results.append([*out.detach().values(), *(p.grad for p in loss.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_dispatch_by_keywords(kind):
    loss, batch = ctmrl_loss(kind, extra_negatives=4).eval(), meta_batch()
    expected = run(loss, batch)
    keywords = {"_".join(key) if isinstance(key, tuple) else key: batch[key] for key in loss.in_keys}
    torch.manual_seed(3)
    for name, value in zip(loss.out_keys, loss(**keywords), strict=True):
        torch.testing.assert_close(value, expected[name])


def test_transitions_may_have_the_batch_size_of_the_root():
    loss, batch = ctmrl_loss().eval(), meta_batch()
    expected = run(loss, batch)
    coarse = batch.clone()
    coarse["transitions"].batch_size = [5]
    torch.testing.assert_close(run(loss, coarse)["loss_qvalue"], expected["loss_qvalue"])


def test_in_keys_name_the_second_draw_only_where_it_is_used():
    assert ("context_positive", "observation") in ctmrl_loss().in_keys
    assert not any(key[0] == "context_positive" for key in ctmrl_loss(contrastive_weight=0.0).in_keys)


def renamed_loss(root):
    torch.manual_seed(0)
    features = {(*root, "observation"): 2, (*root, "action"): 2, (*root, "next", "reward"): 1}
    encoder = modules.make_context_encoder(
        feature_dims=features, context_dim=4, hidden=(8,), mask_key=(*root, "mask")
    )
    return MetaLoss(
        encoder, CQVAELoss(modules.Codebook(3, 4), *predictors(), extra_negatives=4), policy_loss()
    )


@pytest.mark.parametrize("root", [("demo",), ("data", "demo")])
def test_renamed_and_nested_roots(root):
    mask = torch.arange(7) < torch.tensor([7, 1, 3, 5, 2])[:, None]
    reference, batch = ctmrl_loss(extra_negatives=4).eval(), meta_batch(mask=mask)
    loss = renamed_loss(root).eval()
    loss.load_state_dict(reference.state_dict())
    name = root[0] if len(root) == 1 else root
    loss.representation.set_keys(prediction=name)
    loss.set_keys(context=name, context_positive=("second", "draw"), transitions=("rl", "steps"))
    renamed = TensorDict({}, [5])
    renamed[name] = batch["context"]
    renamed["second", "draw"] = batch["context_positive"]
    renamed["rl", "steps"] = batch["transitions"]
    out, expected = run(loss, renamed), run(reference, batch)
    for term in (*REPRESENTATION, *POLICY):
        torch.testing.assert_close(out[term], expected[term])
    assert (*root, "observation") in loss.in_keys and ("second", "draw", "next", "reward") in loss.in_keys
    assert ("rl", "steps", "next", "reward") in loss.in_keys


def test_a_renamed_task_context():
    torch.manual_seed(0)
    z = ("latent", "z")
    networks = (
        modules.make_actor(action_dim=2, **SIZES, in_keys=["observation", z]),
        modules.make_qvalue(action_dim=2, **SIZES, in_keys=["observation", "action", z]),
        modules.make_value(**SIZES, in_keys=["observation", z]),
    )
    reference = ctmrl_loss(extra_negatives=4).eval()
    representation = CQVAELoss(
        modules.Codebook(3, 4), *predictors(in_keys=["observation", "action", z]), extra_negatives=4
    )
    loss = MetaLoss(reference.context_encoder, representation, BRACSACLoss(*networks, gamma=0.9)).eval()
    for part in (loss, loss.representation):
        part.set_keys(task_context=z, task_context_positive=("latent", "other"))
    loss.load_state_dict(reference.state_dict())
    out, expected = run(loss, meta_batch()), run(reference, meta_batch())
    for term in (*REPRESENTATION, *POLICY):
        torch.testing.assert_close(out[term], expected[term])
    assert not any("latent" in key for key in loss.in_keys)


@pytest.mark.parametrize("missing", ["context", "context_positive", "transitions"])
def test_a_missing_root_is_named(missing):
    with pytest.raises(KeyError, match=f"CTMRLLoss reads '{missing}'"):
        ctmrl_loss()(meta_batch().exclude(missing))


@pytest.mark.parametrize(
    "missing",
    [("context", "action"), ("context_positive", "observation"), ("context", "next", "observation")],
)
def test_a_missing_entry_is_named(missing):
    with pytest.raises(KeyError, match=missing[-1]):
        ctmrl_loss()(meta_batch().exclude(missing))


def test_a_single_task_cannot_be_contrasted():
    with pytest.raises(ValueError, match="at least two tasks per batch"):
        ctmrl_loss()(meta_batch(tasks=1))


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_round_trip(kind):
    source, target, batch = ctmrl_loss(kind, seed=0), ctmrl_loss(kind, seed=1), meta_batch()
    run(source, batch)
    target.load_state_dict(source.state_dict())
    out, expected = run(target.eval(), batch), run(source.eval(), batch)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_updates_lower_the_losses(kind):
    loss, batch = ctmrl_loss(kind, extra_negatives=4), meta_batch()
    optimiser, updater = torch.optim.Adam(loss.parameters(), 1e-2), SoftUpdate(loss.policy, tau=0.005)
    watched = ("loss_prediction", "loss_code", "loss_contrastive", "loss_qvalue")
    first = run(loss, batch).detach()
    for _ in range(40):
        out = loss(batch)
        sum(value for name, value in out.items() if name.startswith("loss_")).backward()
        optimiser.step()
        optimiser.zero_grad()
        updater.step()
    for name in watched:
        assert out[name] < first[name], name


def test_whether_the_policys_transitions_are_read_by_the_policy_alone():
    apart = make_meta("bc")
    assert apart.policy_alone_reads_transitions  # predictions of the context's own transitions
    apart.set_keys(transitions=("policy", "batch"))
    assert apart.policy_alone_reads_transitions
    shared = make_meta("bc")
    shared.representation.set_keys(prediction="transitions")
    assert not shared.policy_alone_reads_transitions
    shared.set_keys(transitions=("policy", "batch"))
    assert not shared.policy_alone_reads_transitions
    shared.representation_frozen = True
    assert shared.policy_alone_reads_transitions
