"""What every registered encoder, representation and policy loss must do, whoever registered it."""

from __future__ import annotations

import copy
import inspect
from dataclasses import dataclass

import pytest
import torch
from registered import TASKS, Composition, compositions, meta_batch
from tensordict import TensorDict
from tensordict.utils import NestedKey

from ctmrl_torchrl.methods import REPRESENTATIONS, Parts, RepresentationConfig
from ctmrl_torchrl.objectives import RepresentationLoss
from ctmrl_torchrl.objectives.policy import POLICY_LOSSES
from ctmrl_torchrl.rules import check_fields

every = pytest.mark.parametrize("composition", compositions(), ids=lambda each: each.id)
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


def run(loss, batch, seed=3):
    torch.manual_seed(seed)
    return loss(batch)


def total(out):
    return sum(value for name, value in out.items() if name.startswith("loss_"))


@every
def test_it_learns_from_what_it_says_it_reads(composition):
    loss, batch = composition.build(), meta_batch()
    kept = batch.select(*loss.in_keys, *(["task_id"] if "task_id" not in loss.in_keys else []), strict=True)
    for draw in ("context", "context_positive"):
        if draw in kept:
            kept[draw, "mask"] = batch[draw, "mask"]
    out = run(loss, kept)
    assert set(out.keys()) == set(loss.out_keys)
    assert all(value.isfinite().all() for value in out.values())
    total(out).backward()
    parameters = [(name, value) for name, value in loss.named_parameters() if value.requires_grad]
    assert all(value.grad is None or value.grad.isfinite().all() for _, value in parameters)
    reached = {
        name.split(".")[0] for name, value in parameters if value.grad is not None and value.grad.any()
    }
    assert "policy" in reached
    if loss.representation.out_keys and any(True for _ in loss.context_encoder.parameters()):
        assert "context_encoder" in reached


@every
def test_frozen_phases_leave_their_losses_out(composition):
    loss, batch = composition.build(), meta_batch()
    loss.policy_frozen = True
    read = {key[0] for key in loss.in_keys if isinstance(key, tuple)}  # some learn from the policy's batch
    left = batch.exclude(*{"transitions"} - read)
    assert set(run(loss, left).keys()) == set(loss.representation.out_keys)
    loss.policy_frozen, loss.representation_frozen = False, True
    assert set(run(loss, batch.exclude("context_positive")).keys()) == set(loss.policy.out_keys)


@every
def test_it_can_be_saved_copied_and_made_anew(composition):
    loss, other, batch = composition.build().eval(), composition.build(seed=1).eval(), meta_batch()
    expected = run(loss, batch)
    twin = copy.deepcopy(loss)
    other.load_state_dict(loss.state_dict())
    for again in (twin, other):
        for name, value in run(again, batch).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert all(
        torch.equal(a, b) for a, b in zip(loss.parameters(), composition.build().parameters(), strict=True)
    )


@every
def test_keys_can_be_renamed(composition):
    loss, batch = composition.build().eval(), meta_batch()
    expected = run(loss, batch)
    renamed = batch.clone().rename_key_("transitions", ("replay", "rows"))
    loss.set_keys(transitions=("replay", "rows"))
    for name, value in run(loss, renamed).items():
        torch.testing.assert_close(value, expected[name])


@every
def test_in_double_precision(composition):
    loss = composition.build().double()
    batch = meta_batch().apply(lambda x: x.double() if x.is_floating_point() else x)
    out = run(loss, batch)
    total(out).backward()
    assert all(value.dtype == torch.float64 for name, value in out.items() if name.startswith("loss_"))


@every
def test_the_batch_is_left_alone(composition):
    batch = meta_batch()
    before = batch.clone()
    run(composition.build(), batch)
    assert set(before.keys(True, True)) == set(batch.keys(True, True)) and (batch == before).all()


@every
def test_tasks_may_repeat(composition):
    batch = meta_batch()
    batch["task_id"] = torch.tensor([0, 0, 1, 2, 2])
    assert all(value.isfinite().all() for value in run(composition.build(), batch).values())


@pytest.mark.parametrize("registry", [REPRESENTATIONS, POLICY_LOSSES], ids=lambda each: each.kind)
def test_configurations_have_rules_docs_and_their_own_name(registry):
    for name, config in registry.items():
        check_fields(config())
        assert config().name == name and "Examples:" in inspect.getdoc(config)


def test_a_guest_is_a_case_without_further_ado():
    class SmallContexts(RepresentationLoss):
        @dataclass
        class _AcceptedKeys:
            task_context: NestedKey = "task_context"

        default_keys = _AcceptedKeys
        out_keys = ["loss_size"]

        @property
        def in_keys(self):
            return [self.tensor_keys.task_context]

        def forward(self, tensordict):
            contexts = tensordict.get(self.tensor_keys.task_context)
            return TensorDict({"loss_size": (contexts - 1.0).square().mean()}, [])

    @REPRESENTATIONS.register("guest")
    @dataclass
    class GuestConfig(RepresentationConfig):
        name: str = "guest"

        def build(self, problem, context_dim):
            return SmallContexts()

    try:
        guest = Composition(representation="guest")
        assert guest in compositions()
        for check in (
            test_it_learns_from_what_it_says_it_reads,
            test_frozen_phases_leave_their_losses_out,
            test_it_can_be_saved_copied_and_made_anew,
            test_keys_can_be_renamed,
            test_in_double_precision,
            test_the_batch_is_left_alone,
        ):
            check(guest)
        assert GuestConfig().parts(None) == [] and Parts([]).stackable
    finally:
        REPRESENTATIONS.unregister("guest")


def test_metric_loss_by_hand():
    loss = Composition(representation="focal").build()
    batch = meta_batch()
    batch["task_id"] = torch.tensor([0, 0, 1, 2, 3])
    out = run(loss, batch)["loss_metric"]
    contexts = loss.encode(batch, "context")
    same, other = [], []
    for i in range(TASKS):
        for j in range(i):
            distance = (contexts[i] - contexts[j]).square().mean()
            if batch["task_id"][i] == batch["task_id"][j]:
                same.append((distance + 1e-3).sqrt())
            else:
                other.append(1.0 / (distance + 0.1))
    expected = sum(same) / (len(same) + 1e-3) + sum(other) / (len(other) + 1e-3)
    torch.testing.assert_close(out, expected)
