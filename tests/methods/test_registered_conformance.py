"""What TorchRL asks of its losses, asked of every registered one, alone and composed."""

from __future__ import annotations

import pytest
import torch
from registered import TASKS, Composition, compositions, meta_batch
from subjects import keyed, rename_networks, renamed_batch, subjects

from ctmrl_torchrl.objectives.policy import POLICY_LOSSES

every = pytest.mark.parametrize("subject", subjects(), ids=lambda each: each.id)
composed = pytest.mark.parametrize("composition", compositions(), ids=lambda each: each.id)
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

#: names that every accepted key can take
NAMINGS = {"flat": "other_{}".format, "nested": lambda name: ("other", name)}


def run(loss, batch, seed=3):
    torch.manual_seed(seed)
    return loss(batch)


def written(batch, before):
    return set(batch.keys(True, True)) - set(before.keys(True, True))


@every
@pytest.mark.parametrize("naming", [pytest.param("flat", marks=pytest.mark.ci), "nested"])
def test_every_key_can_have_another_name(subject, naming):
    """Alone and all together, and back again; what it writes is renamed as well."""
    loss, batch = subject.build(), subject.batch(padded=True)
    old, after = keyed(loss), batch.clone()
    expected = run(loss, after)
    everything = {name: NAMINGS[naming](name) for name in old}
    for new in [*({name: everything[name]} for name in old), everything]:
        rename_networks(subject.networks(loss), old, new)
        loss.set_keys(**new)
        getattr(loss, "policy", loss).set_keys()  # notes what its networks read
        assert keyed(loss) == old | new
        renamed = renamed_batch(batch, old, new)
        before = renamed.clone()
        out = run(loss, renamed)
        assert set(out.keys()) == set(expected.keys())
        assert [name for name, value in expected.items() if not torch.equal(out[name], value)] == [], new
        assert written(renamed, before) == written(renamed_batch(after, old, new), before)
        assert all(key in before for key in loss.in_keys)
        rename_networks(subject.networks(loss), old | new, {name: old[name] for name in new})
        loss.set_keys(**{name: old[name] for name in new})


@every
def test_in_keys_suffice_and_are_needed(subject):
    loss, batch = subject.build(), subject.batch()
    assert len(set(loss.in_keys)) == len(loss.in_keys)
    expected = run(loss, batch.clone())
    out = run(loss, batch.select(*loss.in_keys))
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)
    for key in loss.in_keys:
        if key[-1] != "terminated":  # as in TorchRL, done stands in for it
            with pytest.raises(KeyError, match=str(key[-1] if isinstance(key, tuple) else key)):
                run(loss, batch.exclude(key))


@every
def test_dispatch_by_keywords(subject):
    loss, batch = subject.build(), subject.batch()
    expected = run(loss, batch.clone())
    torch.manual_seed(3)
    entries = {"_".join(key) if isinstance(key, tuple) else key: batch[key] for key in loss.in_keys}
    out = loss(**entries) if entries else ()
    out = out if isinstance(out, tuple) else (out,)
    for name, value in zip(loss.out_keys, out, strict=True):
        torch.testing.assert_close(value, expected[name])


@composed
def test_reduction_of_the_representation(composition):
    outs = {}
    for how in ("none", "mean", "sum"):
        loss = composition.build().eval()
        loss.policy_frozen, loss.representation.reduction = True, how
        outs[how] = run(loss, meta_batch())
        assert set(outs[how].keys()) == set(loss.out_keys)
    for name in (name for name in loss.out_keys if name.startswith("loss_")):
        assert outs["none"][name].shape == (TASKS,)
        torch.testing.assert_close(outs["none"][name].mean(), outs["mean"][name])
        torch.testing.assert_close(outs["none"][name].sum(), outs["sum"][name])


@pytest.mark.ci
@composed
def test_it_is_traced_without_a_break(composition):
    """Every loss once: the usual ones together, any other one alone (if it has terms)."""
    torch._dynamo.reset()
    eager, traced, usual = composition.build().train(), composition.build().train(), Composition()
    for loss in (eager, traced):
        POLICY_LOSSES.get(composition.policy_loss)().target_update(loss.policy)
        loss.representation_frozen = composition.policy_loss != usual.policy_loss
        other = composition.representation != usual.representation
        loss.policy_frozen = other and bool(loss.representation.out_keys)
    batch = meta_batch()
    expected = run(eager, batch.clone())
    out = run(torch.compile(traced, fullgraph=True, backend="aot_eager"), batch.clone())
    assert set(out.keys()) == set(eager.out_keys)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, rtol=1e-4, atol=1e-5, msg=name)
    for losses in (expected, out):
        sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    for (name, wanted), found in zip(eager.named_parameters(), traced.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-4, msg=name)
    torch._dynamo.reset()
