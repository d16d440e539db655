"""The losses in somebody else's pipeline: their names, their networks, their sizes, their updater."""

from __future__ import annotations

import pytest
import torch
from conformance import is_loss, keywords, run
from foreign_modules import FORCE, NESTED, PLAIN, Net, batch, make_loss, policy
from tensordict import TensorDict
from tensordict.nn import TensorDictModule, TensorDictSequential
from torchrl.modules import IndependentNormal
from torchrl.objectives import HardUpdate, SoftUpdate

from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.objectives import CQVAELoss, MetaLoss

KINDS = ["brac_sac", "brac_sac_penalty", "iql", "sac"]
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def total(out):
    return sum(value for name, value in out.items() if is_loss(name))


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_can_be_renamed_and_nested(kind):
    plain, renamed = make_loss(kind, PLAIN), make_loss(kind, NESTED)
    expected, out = run(plain, batch(PLAIN)), run(renamed, batch(NESTED))
    assert set(out.keys()) == set(expected.keys()) == set(renamed.out_keys)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0)
    total(expected).backward()
    total(out).backward()
    for (name, ours), theirs in zip(plain.named_parameters(), renamed.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=0, msg=name)
    roots = {("support", "first"), ("support", "second"), ("query", "steps")}
    assert {key[:2] for key in renamed.in_keys} == roots
    assert len(renamed.in_keys) == len(plain.in_keys)


@pytest.mark.parametrize("names", [PLAIN, NESTED])
@pytest.mark.parametrize("kind", KINDS)
def test_the_input_is_left_as_it_was(kind, names):
    td = batch(names)
    before = td.clone()
    run(make_loss(kind, names), td)
    assert set(td.keys(True, True)) == set(before.keys(True, True)) and (td == before).all()


@pytest.mark.parametrize("kind", KINDS[:3])  # SACLoss itself cannot take nested keys as keywords
def test_keywords_and_in_keys_under_foreign_names(kind):
    loss = make_loss(kind, NESTED).eval()
    td = batch(NESTED).exclude(("support", "first", "outcome", "real"), ("info", "task"))  # optional ones
    expected = run(loss, td.select(*loss.in_keys))
    torch.manual_seed(3)
    for name, value in zip(loss.out_keys, loss(**keywords(loss, td)), strict=True):
        torch.testing.assert_close(value, expected[name])


def test_names_are_handed_on_to_the_representation_loss():
    loss = make_loss("iql", NESTED)
    keys = loss.representation.tensor_keys
    assert (keys.task_context, keys.task_context_positive) == (NESTED.z, NESTED.positive_z)
    assert keys.prediction == NESTED.context
    loss.representation.set_keys(prediction=NESTED.transitions)
    loss.set_keys(transitions="elsewhere", context="support", task_context=None)
    assert keys.prediction == "elsewhere" and keys.task_context == "task_context"
    loss.representation.set_keys(prediction="a third place")
    loss.set_keys(transitions="query", context="context")
    assert keys.prediction == "a third place"


@pytest.mark.parametrize(("latent", "codes"), [(1, 2), (9, 6)])
@pytest.mark.parametrize("kind", KINDS)
def test_latent_and_codebook_of_other_sizes(kind, latent, codes):
    loss = make_loss(kind, NESTED, latent=latent, codes=codes)
    out = run(loss, batch(NESTED))
    total(out).backward()
    assert all(value.isfinite().all() for value in out.values())
    assert loss.encode(batch(NESTED), NESTED.context).shape == (4, latent)
    silent = [name for name, p in loss.named_parameters() if p.grad is None]
    assert silent == []


@pytest.mark.parametrize("kind", KINDS)
def test_in_float64(kind):
    loss = make_loss(kind, NESTED).to(torch.float64).eval()
    td = batch(NESTED).apply(lambda x: x.double() if x.is_floating_point() else x)
    out, expected = run(loss, td), run(make_loss(kind, NESTED).eval(), batch(NESTED))
    assert all(value.dtype == torch.float64 for name, value in out.items() if is_loss(name))
    for name in ("loss_prediction", "loss_code", "loss_contrastive"):
        torch.testing.assert_close(out[name].float(), expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["brac_sac", "iql", "sac"])
def test_another_action_distribution(kind):
    loss = make_loss(kind, NESTED, distribution=IndependentNormal)
    out = run(loss, batch(NESTED))
    grads = torch.autograd.grad(out["loss_actor"], list(loss.actor_network_params.parameters()))
    assert all(grad.any() for grad in grads)


@pytest.mark.parametrize(
    "updater", [lambda loss: SoftUpdate(loss, tau=0.05), lambda loss: HardUpdate(loss)], ids=["soft", "hard"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_users_training_loop(kind, updater):
    loss = make_loss(kind, NESTED)
    targets, optimiser = updater(loss), torch.optim.Adam(loss.parameters(), 3e-3)
    first = run(loss, batch(NESTED)).detach()
    for _ in range(30):
        total(loss(batch(NESTED))).backward()
        optimiser.step()
        optimiser.zero_grad()
        targets.step()
    last = run(loss, batch(NESTED)).detach()
    for name in ("loss_prediction", "loss_cross_prediction", "loss_contrastive"):
        assert last[name] < first[name], name


def test_a_context_may_be_one_tensor():
    names = PLAIN
    encoder = TensorDictModule(Net(FORCE, 5, pool=True), ["context"], ["task_context"])
    representation = CQVAELoss(
        Codebook(3, 5),
        *(
            TensorDictModule(Net(3 + 2 + 5, n), ["observation", "action", "task_context"], ["p"])
            for n in (1, 3)
        ),
    )
    representation.set_keys(prediction="transitions")
    loss = MetaLoss(encoder, representation, policy("iql", names, 5))
    td = batch(names).select("transitions")
    td["context"], td["context_positive"] = torch.randn(4, 7, FORCE), torch.randn(4, 7, FORCE)
    out = run(loss, td.select(*loss.in_keys))
    assert {"context", "context_positive"} <= set(loss.in_keys)
    assert torch.autograd.grad(out["loss_contrastive"], list(encoder.parameters()))[0].any()


def test_a_batch_of_sequences_for_td_lambda():
    loss = make_loss("iql", PLAIN).eval().make_value_estimator("tdlambda", lmbda=0.5)
    td = batch(PLAIN)
    steps = td["transitions"].reshape(4, 2, 3)
    seen = loss.policy_batch(TensorDict({"transitions": steps}, [4]), torch.arange(20.0).reshape(4, 5))
    assert seen["task_context"].shape == seen["next", "task_context"].shape == (4, 2, 3, 5)
    assert (seen["task_context"] == torch.arange(20.0).reshape(4, 1, 1, 5)).all()
    sequences, flat = run(loss, td.clone().set("transitions", steps)), run(loss, td)
    torch.testing.assert_close(sequences["loss_value"], flat["loss_value"])
    assert sequences["loss_qvalue"] != flat["loss_qvalue"]  # the last dimension is time


def test_a_predictor_may_overwrite_what_it_reads():
    def loss(*first):
        torch.manual_seed(0)
        reward = TensorDictSequential(*first, TensorDictModule(Net(2, 1), ["action"], ["r"]))
        following = TensorDictModule(Net(3 + 2 + 5, 3), ["observation", "action", "task_context"], ["s"])
        return CQVAELoss(Codebook(3, 5), reward, following)

    td = batch(PLAIN).set("task_context", torch.randn(4, 5)).set("task_context_positive", torch.randn(4, 5))
    spoil = TensorDictModule(torch.zeros_like, ["observation"], ["observation"])
    assert run(loss(spoil), td)["loss_prediction"] == run(loss(), td)["loss_prediction"]
