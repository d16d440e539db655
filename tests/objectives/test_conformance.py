"""What TorchRL asks of its losses, asked of ours."""

from __future__ import annotations

import copy
import traceback
import warnings

import pytest
import torch
from conformance import CASES, is_loss, keywords, run
from torch.utils._python_dispatch import TorchDispatchMode
from torchrl.objectives import LossModule

aten = torch.ops.aten
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


@every
def test_keys_have_defaults_and_can_be_set(case):
    assert set(case.make()._AcceptedKeys.__dataclass_fields__) >= set(case.keys)
    assert isinstance(case.make(), LossModule)
    for name, default in case.keys.items():
        loss = case.make()
        assert getattr(loss.tensor_keys, name) == default
        if name in ("state_value", "value", "state_action_value"):
            continue  # must be what the network writes: see test_keys_of_the_critics_follow_the_networks
        loss.set_keys(**{name: ("some", "other")})
        assert getattr(loss.tensor_keys, name) == ("some", "other")
        assert getattr(case.make().tensor_keys, name) == default
        loss.set_keys(**{name: None})
        assert getattr(loss.tensor_keys, name) == default
    with pytest.raises(ValueError, match="nonsense is not an accepted tensordict key"):
        case.make().set_keys(nonsense="x")


@every
def test_in_keys_suffice_and_are_needed(case):
    loss, batch = case.build().eval(), case.batch()
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
def test_out_keys_are_what_comes_out(case):
    loss = case.build()
    out = run(loss, case.batch())
    assert list(loss.out_keys) == list(dict.fromkeys(loss.out_keys))
    assert set(out.keys()) == set(loss.out_keys)
    assert {name for name in loss.out_keys if is_loss(name)} == set(case.owners)
    assert all(value.shape == () for value in out.values())
    assert not any(value.requires_grad for name, value in out.items() if not is_loss(name))


@every
def test_nothing_is_left_behind_or_clobbered(case):
    batch = case.batch()
    before = batch.clone()
    run(case.build(), batch)
    assert set(batch.keys(True, True)) - set(before.keys(True, True)) == case.writes
    assert (batch.exclude(*case.writes) == before).all()


def several(out):
    """Outputs of a call by keywords; a single one is no tuple."""
    return out if isinstance(out, tuple) else (out,)


@every
def test_dispatch_by_keywords(case):
    loss, batch = case.build().eval(), case.batch()
    expected = run(loss, batch.clone())
    torch.manual_seed(3)
    out = loss(**keywords(loss, batch))
    for name, value in zip(loss.out_keys, several(out), strict=True):
        torch.testing.assert_close(value, expected[name])
    chosen = list(loss.out_keys)[:2]
    loss.select_out_keys(*chosen)
    torch.manual_seed(3)
    for name, value in zip(chosen, several(loss(**keywords(loss, batch))), strict=True):
        torch.testing.assert_close(value, expected[name])
    assert set(run(loss, batch.clone()).keys()) == set(chosen)
    loss.reset_out_keys()
    assert set(run(loss, batch.clone()).keys()) == set(expected.keys())


@every
def test_each_term_reaches_exactly_its_parameters(case):
    loss = case.build()
    named = dict(loss.named_parameters())
    out = run(loss, case.batch())
    for term, owners in case.owners.items():
        grads = (
            torch.autograd.grad(out[term], list(named.values()), retain_graph=True, allow_unused=True)
            if out[term].requires_grad
            else [None] * len(named)
        )
        reached = {name for name, grad in zip(named, grads, strict=True) if grad is not None and grad.any()}
        groups = {owner: {name for name in named if f"{name}.".startswith(owner + ".")} for owner in owners}
        assert all(groups.values())
        assert reached == set().union(*groups.values()), term


@every
def test_the_sum_reaches_every_parameter_and_no_target(case):
    loss = case.build()
    parameters = list(loss.parameters())
    assert len({id(p) for p in parameters}) == len(parameters)
    out = run(loss, case.batch())
    sum(value for name, value in out.items() if is_loss(name)).backward()
    silent = [n for n, p in loss.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == [] and all(p.grad.isfinite().all() for p in parameters)
    for name in case.targets:
        targets = list(getattr(loss, name).values(True, True))
        assert targets and not any(t.requires_grad or any(t is p for p in parameters) for t in targets)


@every
def test_a_fresh_loss_loads_the_state_of_a_used_one(case):
    source, target, batch = case.build(seed=0), case.build(seed=1), case.batch()
    run(source, batch.clone())
    assert set(source.state_dict()) == set(target.state_dict())
    target.load_state_dict(source.state_dict())
    expected, out = run(source.eval(), batch.clone()), run(target.eval(), batch.clone())
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0)


@every
def test_copies_are_independent_and_equal(case):
    loss, batch = case.build().eval(), case.batch()
    twin = copy.deepcopy(loss)
    expected = run(loss, batch.clone())
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(1.0)
    for name, value in run(twin, batch.clone()).items():
        torch.testing.assert_close(value, expected[name])


@every
def test_reduction(case):
    none, mean, total = (case.build(reduction=how).eval() for how in ("none", "mean", "sum"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "No target network updater")
        outs = [run(loss, case.batch()) for loss in (none, mean, total)]
    assert set(outs[0].keys()) == set(none.out_keys)
    for name in case.owners:
        assert outs[0][name].ndim > 0
        torch.testing.assert_close(outs[0][name].mean(), outs[1][name])
        torch.testing.assert_close(outs[0][name].sum(), outs[2][name])
    assert len(several(none(**keywords(none, case.batch())))) == len(none.out_keys)
    with pytest.raises(ValueError, match="reduction='median' is unknown"):
        case.make(reduction="median")


@every
def test_reset_parameters_changes_every_parameter(case):
    loss = case.build()
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(1000.0)
    before = {name: parameter.clone() for name, parameter in loss.named_parameters()}
    loss.reset_parameters_recursive()
    assert [n for n, p in loss.named_parameters() if (p == before[n]).any()] == []
    assert all(value.isfinite().all() for value in run(loss, case.batch()).values())


@every
def test_in_float64(case):
    single, double, batch = case.build().eval(), case.build().eval().to(torch.float64), case.batch()
    floating = batch.apply(lambda x: x.double() if x.is_floating_point() else x)
    assert {p.dtype for p in double.parameters()} == {torch.float64}
    out, expected = run(double, floating), run(single, batch)
    assert all(value.dtype == torch.float64 for name, value in out.items() if is_loss(name))
    for name in ({"loss_qvalue", "loss_prediction", "loss_code"} - case.noisy) & set(out.keys()):
        torch.testing.assert_close(out[name].float(), expected[name].float(), rtol=1e-4, atol=1e-5)
    sum(value for name, value in out.items() if is_loss(name)).backward()
    assert all(p.grad.dtype == torch.float64 for p in double.parameters())


@every
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_another_device(case):
    loss, batch = case.build().eval(), case.batch()
    expected, other = run(loss, batch, seed=0), run(loss, batch, seed=1)
    loss = loss.to("cuda")
    assert {t.device.type for t in [*loss.parameters(), *loss.buffers()]} == {"cuda"}
    out = run(loss, case.batch().to("cuda"))
    for name in {"loss_qvalue", "loss_prediction", "loss_code"} & set(out.keys()):
        if torch.equal(expected[name], other[name]):  # devices draw different random numbers
            torch.testing.assert_close(out[name].cpu(), expected[name], rtol=1e-3, atol=1e-4)


class NoReading(TorchDispatchMode):
    """Fails where a value of a tensor decides what Python does, which would wait for the device.

    Except inside TorchRL's distributions: ``TanhNormal`` compares its limits with 1.
    """

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (aten._local_scalar_dense, aten.equal, aten.nonzero):
            assert any("distributions" in frame.filename for frame in traceback.extract_stack()), func
        return func(*args, **(kwargs or {}))


@every
def test_no_value_is_read_back(case):
    loss, batch = case.build().train(), case.batch()
    with pytest.raises(AssertionError), NoReading():
        bool(torch.ones(()))
    with NoReading():
        run(loss, batch)


@every
def test_a_seed_reproduces_it(case):
    first, second = (run(case.build().train(), case.batch(), seed=8) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first.keys())  # noqa: SIM118


@pytest.mark.parametrize("name", ["ctmrl_brac_sac", "ctmrl_iql"])
def test_keys_of_a_composed_loss_follow_its_phase(name):
    case = CASES[name]
    loss, batch = case.build().eval(), case.batch()
    everything = set(loss.in_keys)

    def check(gone_in, gone_out):
        kept = batch.select(*loss.in_keys)
        out = run(loss, kept)
        assert set(out.keys()) == set(loss.out_keys)
        assert not any(key[0] in gone_in for key in loss.in_keys)
        assert everything - set(loss.in_keys) == {key for key in everything if key[0] in gone_in}
        assert not gone_out & set(loss.out_keys)
        assert len(loss(**keywords(loss, kept))) == len(loss.out_keys)

    check(set(), set())
    loss.representation.warm_up = True
    check({"context_positive"}, set())
    loss.policy_frozen = True
    check({"context_positive", "transitions"}, {"loss_actor", "loss_qvalue", "loss_value"})
    loss.policy_frozen, loss.representation_frozen = False, True
    assert {key[0] for key in loss.in_keys} == {"context", "transitions"}
    assert "loss_code" not in loss.out_keys and set(run(loss, batch).keys()) == set(loss.out_keys)
