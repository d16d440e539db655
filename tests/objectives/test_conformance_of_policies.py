"""What TorchRL asks of losses with networks, targets and value estimators, asked of ours."""

from __future__ import annotations

import warnings

import pytest
import torch
from conformance import CASES, POLICIES, policy_batch, run
from meta_batches import policy_networks
from torch import nn
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import HardUpdate, IQLLoss, SoftUpdate, ValueEstimators
from torchrl.objectives.value import TD0Estimator

from ctmrl_torchrl.objectives import BRACSACLoss, make_iql_loss

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
policies = pytest.mark.parametrize("case", POLICIES.values(), ids=POLICIES.keys())
with_targets = pytest.mark.parametrize(
    "case", [case for case in CASES.values() if case.targets], ids=[n for n in CASES if CASES[n].targets]
)
pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")


@with_targets
@pytest.mark.parametrize(
    "updater",
    [lambda loss: SoftUpdate(loss, tau=0.1), lambda loss: HardUpdate(loss, value_network_update_interval=1)],
    ids=["soft", "hard"],
)
def test_updaters_find_the_targets(case, updater):
    loss = case.build()
    mover = updater(loss)
    assert set(mover._target_names) == case.targets
    before = {name: getattr(loss, name).data.clone() for name in case.targets}
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter.add_(1.0)
    for _ in range(2 if isinstance(mover, HardUpdate) else 1):  # the hard one moves every second time
        mover.step()
    rate = 0.1 if isinstance(mover, SoftUpdate) else 1.0
    for name in case.targets:
        moved = getattr(loss, name).data
        for key, value in before[name].items(True, True):
            torch.testing.assert_close(moved[key], value + rate)


@with_targets
def test_the_missing_updater_is_warned_about_until_there_is_one(case):
    loss = case.build()
    with pytest.warns(UserWarning, match="No target network updater"):
        run(loss, case.batch())
    updater = SoftUpdate(loss, tau=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(loss, case.batch())
    updater.step()


def test_a_loss_without_targets_says_so():
    with pytest.raises(RuntimeError, match="Did not find any target parameters"):
        SoftUpdate(CASES["cqvae"].build(), tau=0.1)


@every
def test_value_estimators(case):
    loss = case.build()
    if not case.estimates:
        with pytest.raises(NotImplementedError, match="has no value estimator"):
            loss.make_value_estimator(ValueEstimators.TD0)
        return
    reference = run(case.build(), case.batch())["loss_qvalue"]
    for kind in (ValueEstimators.TD1, "tdlambda", TD0Estimator, "td0", ValueEstimators.TD0, None):
        assert loss.make_value_estimator(kind) is loss
        assert loss.value_estimator.gamma.item() == pytest.approx(0.9)
        same = kind not in (ValueEstimators.TD1, "tdlambda")
        assert (run(loss, case.batch())["loss_qvalue"] == reference) == same
    loss.make_value_estimator("td0", gamma=0.5)
    assert loss.value_estimator.gamma.item() == 0.5
    assert run(loss, case.batch())["loss_qvalue"] != reference
    loss.make_value_estimator(case.build().value_estimator)
    assert run(loss, case.batch())["loss_qvalue"] == reference
    for kind in (ValueEstimators.GAE, ValueEstimators.VTrace):
        with pytest.raises(NotImplementedError, match=kind.name):
            loss.make_value_estimator(kind)


@policies
def test_batches_of_several_steps_discount_by_their_number(case):
    """As TorchRL's ``MultiStep`` writes them."""
    batch = case.batch()
    batch["steps_to_next_obs"] = torch.full((*batch.batch_size, 1), 3)
    out = run(case.build(), batch)["loss_qvalue"]
    expected = run(case.build().make_value_estimator("td0", gamma=0.9**3), case.batch())["loss_qvalue"]
    torch.testing.assert_close(out, expected)
    assert out != run(case.build(), case.batch())["loss_qvalue"]


@policies
def test_keys_reach_the_value_estimator(case):
    for kind in ("td0", TD0Estimator):
        loss = case.build().make_value_estimator(kind)
        loss.set_keys(reward=("some", "gain"), done="over", terminated="dead")
        keys = loss.value_estimator.tensor_keys
        assert (keys.reward, keys.done, keys.terminated) == (("some", "gain"), "over", "dead")
        assert {("next", "some", "gain"), ("next", "over"), ("next", "dead")} <= set(loss.in_keys)
        assert not {("next", "reward"), ("next", "done"), ("next", "terminated")} & set(loss.in_keys)


@policies
def test_keys_of_the_critics_follow_the_networks(case):
    loss = case.build()
    if loss.value_network is not None:
        with pytest.raises(KeyError):
            loss.set_keys(**{loss.value_field: "not written"})
    loss = case.build()
    loss.set_keys(state_action_value="not written")
    with pytest.raises((KeyError, AttributeError)):
        run(loss, case.batch())


@policies
def test_vmap_and_one_by_one_agree(case):
    expected, out = (
        run(case.build(deactivate_vmap=one_by_one), case.batch()) for one_by_one in (False, True)
    )
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)


@policies
def test_padding_carries_no_signal(case):
    batch = case.batch()
    mask = torch.ones(4, 6, 1, dtype=torch.bool)
    mask[:, -2:] = False
    batch["collector", "mask"] = mask
    spoilt = batch.clone()
    spoilt["next", "reward"][:, -2:] = float("inf")
    spoilt["next", "observation"][:, -2:] = 1e3
    spoilt["observation"][:, -2:] = 1e3
    losses = [case.build(), case.build()]
    out, expected = (run(loss, given) for loss, given in zip(losses, (spoilt, batch), strict=True))
    for name in (
        case.owners if case is POLICIES["iql"] else expected.keys()
    ):  # diagnostics of IQL are TorchRL's
        torch.testing.assert_close(out[name], expected[name])
    for (name, value), other in zip(losses[0].named_buffers(), losses[1].buffers(), strict=True):
        torch.testing.assert_close(value, other, msg=name)


@policies
def test_the_shape_of_the_batch_does_not_matter(case):
    batch = case.batch()
    expected, flat = run(case.build().eval(), batch), run(case.build().eval(), batch.reshape(24))
    coarse = batch.clone()
    coarse["next"].batch_size, coarse.batch_size = [4], [4]
    for name, value in expected.items():
        torch.testing.assert_close(flat[name], value)
        torch.testing.assert_close(run(case.build().eval(), coarse)[name], value)


@policies
def test_the_modules_given_follow_the_loss(case):
    loss = case.build()
    for name in ("actor_network", "value_network"):
        if getattr(loss, name) is None:
            continue
        network, parameters = getattr(loss, name), getattr(loss, f"{name}_params")
        for key, value in parameters.items(True, True):
            if isinstance(value, nn.Parameter):
                assert network.get_parameter(".".join(key)) is value
    assert all(value.shape[0] == 2 for value in loss.qvalue_network_params.values(True, True))


def test_iql_is_torchrls():
    case = POLICIES["iql"]
    ours = case.build()
    theirs = IQLLoss(
        ours.actor_network, ours.qvalue_network, ours.value_network, loss_function="l2", expectile=0.8,
        temperature=10.0,
    )  # fmt: skip
    theirs.set_keys(value="state_value", state_action_value="state_action_value")
    theirs.make_value_estimator(ValueEstimators.TD0, gamma=0.9)
    theirs.load_state_dict(ours.state_dict())
    mine, their_batch = case.batch(), case.batch()
    out, expected = run(ours, mine), run(theirs, their_batch)
    assert set(out.keys()) == set(expected.keys())
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value, rtol=0, atol=0)
    torch.testing.assert_close(mine["td_error"], their_batch["td_error"])


def test_standardised_rewards_are_those_of_a_standardised_dataset():
    plain = POLICIES["iql"].build().eval()
    statistics = torch.tensor([-2.0]), torch.tensor([4.0])
    loss = make_iql_loss(*policy_networks(), gamma=0.9, reward_statistics=statistics).eval()
    loss.load_state_dict(plain.state_dict(), strict=False)
    batch = policy_batch(4, 6)
    standardised = batch.clone()
    standardised["next", "reward"] = (batch["next", "reward"] + 2.0) / 4.0
    before = batch["next", "reward"].clone()
    out, expected = run(loss, batch), run(plain, standardised)
    for name, value in expected.items():
        torch.testing.assert_close(out[name], value)
    assert not torch.allclose(out["loss_qvalue"], run(plain, policy_batch(4, 6))["loss_qvalue"])
    assert torch.equal(batch["next", "reward"], before)


@pytest.mark.parametrize("make", [BRACSACLoss, make_iql_loss])
def test_critics_may_be_given_as_a_list(make):
    actor, qvalue, value = policy_networks()
    other = policy_networks()[1]
    loss = make(actor, [qvalue, other], value)
    for number, critic in enumerate((qvalue, other)):
        for name, parameter in critic.named_parameters():
            assert torch.equal(loss.qvalue_network_params[(*name.split("."),)][number], parameter)
    run(loss, policy_batch(8))


@pytest.mark.parametrize("make", [BRACSACLoss, make_iql_loss])
def test_a_critic_may_read_what_the_actor_does_not(make):
    actor, _, value = policy_networks()
    critic = ValueOperator(MLP(in_features=5, out_features=1), ["privileged", "action"], ["q"])
    loss = make(actor, critic, value)
    batch = policy_batch(8).set("privileged", torch.randn(8, 3))
    run(loss, batch.select(*loss.in_keys))
    with pytest.raises(KeyError, match="privileged"):
        run(loss, policy_batch(8))


@with_targets
def test_what_walks_a_loss_meets_every_module_once(case):
    loss, met = case.build(), []
    loss.apply(met.append)
    assert len({id(module) for module in met}) == len(met)
