"""TD3+BC and SAC against TorchRL's losses and against their formulas written out."""

from __future__ import annotations

import pytest
import torch
from conformance import CASES, POLICIES, policy_batch, run
from meta_batches import meta_batch, policy_networks
from tensordict.nn import TensorDictModule
from term_checks import agree
from torchrl.modules import MLP, ValueOperator
from torchrl.objectives import SACLoss, SoftUpdate, TD3BCLoss, ValueEstimators

from ctmrl_torchrl.objectives import StackedLoss
from ctmrl_torchrl.objectives.policy.sac import SACConfig, make_sac_loss
from ctmrl_torchrl.objectives.policy.td3_bc import TD3BCConfig, make_td3_bc_loss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.rules import ConfigError, check_fields

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")
KINDS = ("td3_bc", "td3_bc_gentle", "sac", "sac_learned")


def gradients(loss, value):
    named = dict(loss.named_parameters())
    found = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
    return {name: grad for name, grad in zip(named, found, strict=True) if grad is not None}


def test_td3_bc_is_torchrls():
    ours = POLICIES["td3_bc"].build()
    theirs = TD3BCLoss(ours.actor_network, ours.qvalue_network, bounds=(-1.0, 1.0), loss_function="l2")
    theirs.make_value_estimator(ValueEstimators.TD0, gamma=0.9)
    theirs.load_state_dict(ours.state_dict())
    mine, their_batch = policy_batch(4, 6), policy_batch(4, 6)
    out, expected = run(ours, mine), run(theirs, their_batch)
    torch.testing.assert_close(out["loss_qvalue"], expected["loss_qvalue"])
    torch.testing.assert_close(out["loss_actor"], expected["loss_actor"])
    torch.testing.assert_close(out["behaviour_error"], expected["bc_loss"])
    torch.testing.assert_close(out["value_weight"], expected["lmbd"])
    torch.testing.assert_close(mine["td_error"], their_batch["td_error"])
    for name in ("loss_actor", "loss_qvalue"):
        wanted = gradients(theirs, expected[name])
        for key, grad in gradients(ours, out[name]).items():
            torch.testing.assert_close(grad, wanted[key])


@pytest.mark.parametrize("kind", ["sac", "sac_learned"])
def test_sac_is_torchrls(kind):
    ours = POLICIES[kind].build()
    theirs = SACLoss(
        ours.actor_network, ours.qvalue_network, loss_function="l2", alpha_init=0.2,
        fixed_alpha=kind == "sac", target_entropy=-2.0,
    )  # fmt: skip
    theirs.make_value_estimator(ValueEstimators.TD0, gamma=0.9)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    mine, their_batch = policy_batch(4, 6), policy_batch(4, 6)
    out, expected = run(ours, mine), run(theirs, their_batch)
    for name in ours.out_keys:
        torch.testing.assert_close(out[name], expected[name])
    torch.testing.assert_close(mine["td_error"], their_batch["td_error"])
    for name in ("loss_actor", "loss_qvalue", "loss_alpha"):
        if name in ours.out_keys:
            wanted = gradients(theirs, expected[name])
            for key, grad in gradients(ours, out[name]).items():
                torch.testing.assert_close(grad, wanted[key])


def test_gentles_form_of_td3_bc_written_out():
    loss, batch = POLICIES["td3_bc_gentle"].build(), policy_batch(4, 6)
    out = run(loss, batch)
    torch.manual_seed(3)
    state = [batch["observation"], batch["task_context"]]
    with loss.actor_network_params.to_module(loss.actor_network):
        distribution = loss.actor_network.get_dist(batch.select("observation", "task_context"))
        action = distribution.rsample()

    def value(number, params, observation, taken, context):
        with params[number].to_module(loss.qvalue_network):
            return loss.qvalue_network(observation, taken, context).squeeze(-1)

    params, target_params = loss.qvalue_network_params, loss.target_qvalue_network_params
    smallest = torch.minimum(*(value(n, params, state[0], action, state[1]) for n in range(2)))
    weight = 2.5 / smallest.detach().abs().mean()
    expected = -weight * smallest.mean() + (action - batch["action"]).square().mean()
    agree(out["loss_actor"], expected, *loss.actor_network_params.parameters())

    noise = (0.2 * torch.randn_like(batch["action"])).clamp(-0.5, 0.5)
    following = batch["next"]
    with loss.target_actor_network_params.to_module(loss.actor_network):
        mean = loss.actor_network.get_dist(following.select("observation", "task_context")).base_dist
        next_action = (mean.base_dist.loc.tanh() + noise).clamp(-1, 1)
    next_value = torch.minimum(
        *(
            value(n, target_params, following["observation"], next_action, following["task_context"])
            for n in range(2)
        )
    )
    target = 5 * following["reward"].squeeze(-1) + 0.9 * ~following["terminated"].squeeze(-1) * next_value
    errors = [value(n, params, state[0], batch["action"], state[1]) - target for n in range(2)]
    expected = sum(error.square().mean() for error in errors)
    agree(out["loss_qvalue"], expected, *loss.qvalue_network_params.parameters())


def test_actor_and_targets_of_td3_bc_move_at_every_second_update():
    loss = POLICIES["td3_bc"].build()
    updater = TD3BCConfig(target_rate=0.5).target_update(loss)
    optimizer = torch.optim.Adam(loss.parameters(), 1e-2)
    moved = []
    for update in range(5):
        before = {key: value.clone() for key, value in loss.state_dict().items() if value.is_floating_point()}
        loss.before_update(update)
        out = run(loss, policy_batch(8), seed=update)
        (out["loss_actor"] + out["loss_qvalue"]).backward()
        optimizer.step(), optimizer.zero_grad(), updater.step()
        after = loss.state_dict()
        moved.append(
            [
                any((after[key] != value).any() for key, value in before.items() if key.startswith(part))
                for part in ("actor", "qvalue", "target_actor", "target_qvalue")
            ]
        )
        assert set(out.keys()) == set(loss.out_keys)
    assert moved == [[True] * 4, [False, True, False, False]] * 2 + [[True] * 4]


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_critics_send_a_gradient_into_the_context(kind):
    loss, batch = POLICIES[kind].build(), policy_batch(4, 6)
    context = batch["task_context"].requires_grad_()
    following = batch["next", "task_context"].requires_grad_()
    out = run(loss, batch)
    (gradient,) = torch.autograd.grad(out["loss_qvalue"], context, retain_graph=True)
    assert gradient.abs().sum() > 0
    rest = sum(value for name, value in out.items() if name.startswith("loss_") and name != "loss_qvalue")
    assert torch.autograd.grad(rest, context, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(out["loss_qvalue"], following, allow_unused=True) == (None,)


def test_padding_weighs_nothing_in_the_value_of_td3_bc():
    batch = policy_batch(4, 6)
    mask = torch.ones(4, 6, 1, dtype=torch.bool)
    mask[:, -2:] = False
    batch["collector", "mask"] = mask
    padded = batch.clone()
    padded["observation"][:, -2:] *= 100.0
    padded["action"][:, -2:] = 0.0
    out, expected = (run(POLICIES["td3_bc"].build().eval(), td) for td in (padded, batch))
    for name in ("loss_actor", "behaviour_error", "value_weight"):
        torch.testing.assert_close(out[name], expected[name])
    short = run(POLICIES["td3_bc"].build().eval(), batch[:, :4].exclude("collector"))
    torch.testing.assert_close(short["loss_actor"], expected["loss_actor"])


def test_a_critic_of_zeros_leaves_imitation():
    case = POLICIES["td3_bc"]
    loss = case.build()
    for parameter in loss.qvalue_network_params.values(True, True):
        parameter.data.zero_()
    out = run(loss, case.batch())
    torch.testing.assert_close(out["loss_actor"], out["behaviour_error"])


def test_no_entropy_at_temperature_zero():
    loss = make_sac_loss(*policy_networks()[:2], gamma=0.9, temperature=0.0)
    out = run(loss, policy_batch(4, 6))
    assert out["alpha"] == 0 and all(value.isfinite() for value in out.values())
    value = loss.qvalue_network_params.detach()
    batch = policy_batch(4, 6)
    torch.manual_seed(3)
    for part in (batch["next"], batch):  # in this order the loss draws
        with loss.actor_network_params.to_module(loss.actor_network):
            action = loss.actor_network.get_dist(part.select(*loss.actor_network.in_keys)).rsample()
    smallest = loss._stacked_values(batch.set("action", action), value, (4, 6)).amin(0)
    torch.testing.assert_close(out["loss_actor"], -smallest.mean())
    loss.reset_parameters_recursive()
    assert run(loss, policy_batch(4, 6))["alpha"] == 0


@pytest.mark.parametrize("make", [make_td3_bc_loss, make_sac_loss])
def test_critics_may_be_a_list_and_read_what_the_actor_does_not(make):
    actor, qvalue, _ = policy_networks()
    loss = make(actor, [qvalue, policy_networks()[1]])
    run(loss, policy_batch(8))
    critic = ValueOperator(MLP(in_features=5, out_features=1), ["privileged", "action"], ["q"])
    loss, batch = make(policy_networks()[0], critic), policy_batch(8)
    with pytest.raises(KeyError, match="privileged"):
        run(loss, batch)
    batch["privileged"], batch["next", "privileged"] = torch.randn(8, 3), torch.randn(8, 3)
    run(loss, batch.select(*loss.in_keys))


def test_wrong_use_is_named():
    actor, qvalue, _ = policy_networks()
    with pytest.raises(ValueError, match="judge='last'; choose one of first, smallest"):
        make_td3_bc_loss(actor, qvalue, judge="last")
    plain = TensorDictModule(torch.nn.Linear(2, 2), ["observation"], ["action"])
    with pytest.raises(ValueError, match="needs an actor with a distribution"):
        make_td3_bc_loss(plain, qvalue, sampled_actions=True)
    run(make_td3_bc_loss(plain, qvalue), policy_batch(4))  # a deterministic actor will do
    with pytest.raises(ValueError, match="temperature=-1"):
        make_sac_loss(actor, qvalue, temperature=-1.0)
    with pytest.raises(ValueError, match="needs target_entropy"):
        make_sac_loss(actor, qvalue, learned_temperature=True)
    wide = ValueOperator(MLP(in_features=8, out_features=2), qvalue.in_keys)
    for make in (make_td3_bc_loss, make_sac_loss):
        with pytest.raises(ValueError, match="'state_action_value' has shape"):
            run(make(policy_networks()[0], wide), policy_batch(4))
        wrong = policy_batch(4)
        wrong["action"] = torch.rand(4, 3)
        with pytest.raises((ValueError, RuntimeError)):
            run(make(*policy_networks()[:2]), wrong)


def problem():
    keys = ("observation", "action", ("next", "reward"), "observation_change")
    statistics = {key: (torch.zeros(2), torch.ones(2)) for key in keys}
    return Problem(2, 2, 0.9, ("next", "reward"), False, statistics)


def test_configurations_build_what_they_say():
    gentle = TD3BCConfig(hidden=[8], sampled_actions=True, judge="smallest", reward_scale=5.0, policy_delay=3)
    check_fields(gentle, "policy_loss")
    loss = gentle.build(problem(), 4)
    found = (loss.sampled_actions, loss.judge, loss.reward_scale, loss.policy_delay, loss.alpha, loss.gamma)
    assert found == (True, "smallest", 5.0, 3, 2.5, 0.9)
    run(loss, policy_batch(8))
    learned = SACConfig(hidden=[8], learned_temperature=True, temperature=0.5, reward_scale=2.0)
    check_fields(learned, "policy_loss")
    loss = learned.build(problem(), 4)
    assert loss.target_entropy == -2.0 and loss.reward_scale == 2.0
    assert run(loss, policy_batch(8))["alpha"].item() == pytest.approx(0.5)
    for wrong, match in (
        (TD3BCConfig(policy_delay=0), "policy_loss.policy_delay: got 0"),
        (TD3BCConfig(judge="min"), "policy_loss.judge: got 'min'"),
        (SACConfig(temperature=-0.1), "policy_loss.temperature"),
    ):
        with pytest.raises(ConfigError, match=match):
            check_fields(wrong, "policy_loss")
    with pytest.raises(ConfigError, match="policy_loss.temperature: got 0.0"):
        SACConfig(temperature=0.0, learned_temperature=True).check()


@pytest.mark.parametrize("name", ["meta_td3_bc", "meta_sac"])
def test_agents_learn_stacked_as_they_learn_alone(name):
    agents = [CASES[name].build(seed=seed) for seed in range(2)]
    alone = [CASES[name].build(seed=seed) for seed in range(2)]
    batches = [meta_batch(seed=seed) for seed in range(2)]
    stacked = StackedLoss(agents, seeds=[5, 6])
    out = stacked(torch.stack(batches))
    for number, loss in enumerate(alone):
        expected = run(loss, batches[number], seed=5 + number)
        for key in ("loss_actor", "loss_qvalue"):
            torch.testing.assert_close(out[key][number], expected[key], rtol=1e-4, atol=1e-5)


@pytest.mark.ci
@pytest.mark.parametrize("name", ["meta_td3_bc", "meta_sac"])
def test_compiled_without_a_break(name):
    eager, traced = CASES[name].build().train(), CASES[name].build().train()
    SoftUpdate(eager, tau=0.005), SoftUpdate(traced, tau=0.005)
    expected = run(eager, meta_batch())
    torch._dynamo.reset()
    out = run(torch.compile(traced, fullgraph=True, backend="eager"), meta_batch())
    torch._dynamo.reset()
    for key, value in expected.items():
        torch.testing.assert_close(out[key], value, rtol=1e-4, atol=1e-5, msg=key)
