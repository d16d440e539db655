from __future__ import annotations

import math

import pytest
import torch
from conformance import make_encoder
from meta_batches import SIZES, meta_batch, policy_loss, transitions
from tensordict import TensorDict
from term_checks import agree
from torch.nn.functional import softplus
from torchrl.modules import TanhNormal
from torchrl.objectives import SoftUpdate, ValueEstimators

from ctmrl_torchrl.modules import make_actor, make_qvalue, make_value
from ctmrl_torchrl.objectives import BRACSACLoss, MetaLoss, NoRepresentationLoss
from ctmrl_torchrl.objectives.policy import ActingPolicy, BRACSACConfig, IQLConfig, PolicyLossConfig
from ctmrl_torchrl.objectives.policy.action_distribution import sample_and_score
from ctmrl_torchrl.problem import Problem

pytestmark = pytest.mark.filterwarnings("ignore:No target network updater")

#: the network that each term trains
OWN = {
    "loss_actor": "actor_network",
    "loss_qvalue": "qvalue_network",
    "loss_value": "value_network",
    "loss_behaviour_critic": "behaviour_critic",
}
LOSSES = tuple(OWN)


def make(kind="brac_sac_penalty", seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        loss = policy_loss(kind, **options)
        # A target network that is not the value network, so that a mix-up shows.
        loss.target_value_network_params.apply_(lambda p: p.data.add_(0.1 * torch.randn_like(p)))
    return loss


def batch(*shape):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        td = transitions(*shape)
        td["task_context"] = torch.randn(*shape, 4)
        td["next", "task_context"] = torch.randn(*shape, 4)
        # some rows terminated, others only truncated: the latter still bootstrap
        td["next", "terminated"] = torch.rand(*shape, 1) < 0.3
        td["next", "truncated"] = torch.rand(*shape, 1) < 0.5
        td["next", "done"] = td["next", "terminated"] | td["next", "truncated"]
    assert td["next", "terminated"].any()
    assert (td["next", "truncated"] & ~td["next", "terminated"]).any()
    return td


def run(loss, td, seed=2):
    torch.manual_seed(seed)
    return loss(td)


def literal(loss, td, *, gamma=0.9, seed=2):
    """Every term of the loss, one row at a time, with the same noise and the same gradient to its networks."""

    def critic(k, *inputs):
        with loss.qvalue_network_params[k].to_module(loss.qvalue_network):
            return loss.qvalue_network.module(*inputs).squeeze(-1)

    def value(params, *inputs):
        with params.to_module(loss.value_network):
            return loss.value_network.module(*inputs).squeeze(-1)

    torch.manual_seed(seed)
    with loss.actor_network_params.to_module(loss.actor_network):
        distribution = loss.actor_network.get_dist(td.clone())
    actions = distribution.rsample()
    log_probs = distribution.log_prob(actions)
    weights = torch.rand_like(actions[..., :1])
    terms, penalty = {name: [] for name in (*LOSSES, "divergence")}, loss.penalty.clone()
    for i in range(td.shape[0]):
        row, s, z, a = td[i], td["observation"][i], td["task_context"][i], td["action"][i]
        a_pi, log_pi = actions[i], log_probs[i]
        follow = value(
            loss.target_value_network_params, row["next", "observation"], row["next", "task_context"]
        )
        target = loss.reward_scale * row["next", "reward"].squeeze()
        if not row["next", "terminated"]:
            target = target + gamma * follow
        terms["loss_qvalue"].append(sum((critic(k, s, a, z) - target) ** 2 for k in range(2)))
        smallest = min(critic(k, s, a_pi, z) for k in range(2))
        soft = (smallest - loss.entropy_coefficient * log_pi).detach()
        terms["loss_value"].append((value(loss.value_network_params, s, z) - soft) ** 2)
        mean, log_scale = distribution.loc[i], distribution.scale[i].log()
        actor = loss.entropy_coefficient * log_pi - smallest
        actor = actor + loss.regularisation * ((mean**2).mean() + (log_scale**2).mean())
        if loss.behaviour_critic is not None:
            witness = loss.behaviour_critic.module
            fixed = a_pi.detach()
            divergence, judged = (
                (1 + torch.log(softplus(witness(s, taken, z)) + 1e-8) - softplus(witness(s, a, z))).squeeze()
                for taken in (a_pi, fixed)
            )
            between = fixed + weights[i] * (a - fixed)
            excess = (torch.sqrt(1e-8 + witness(s, between, z).squeeze() ** 2) - 1).clamp_min(0.0)
            terms["loss_behaviour_critic"].append(-judged + 5 * excess**2)
            terms["divergence"].append(divergence.detach())
            actor = actor + penalty.clamp(0, loss.penalty_max) * divergence
        terms["loss_actor"].append(actor)
    return {name: torch.stack(rows).mean() for name, rows in terms.items() if rows}


@pytest.mark.parametrize("kind", ["brac_sac", "brac_sac_penalty"])
@pytest.mark.parametrize(
    "options",
    [{}, {"reward_scale": 5.0, "entropy_coefficient": 1.0, "regularisation": 1e-1, "gamma": 0.7}],
)
def test_every_term_is_the_literal_one(kind, options):
    loss = make(kind, **options).double()
    td = batch(24).apply(lambda x: x.double() if x.is_floating_point() else x)
    if kind == "brac_sac_penalty":  # make the confinement of the witness bite
        loss.behaviour_critic.module.network[-1].weight.data.mul_(8.0)
        loss.penalty.fill_(0.7)
    expected = literal(loss, td, gamma=options.get("gamma", 0.9))
    out = run(loss, td)
    names = LOSSES[:3] if kind == "brac_sac" else LOSSES
    for name in names:
        own = [value for each, value in loss.named_parameters() if each.startswith(OWN[name])]
        agree(out[name], expected[name], *own)
    assert ("loss_behaviour_critic" in out.keys()) == (kind == "brac_sac_penalty")  # noqa: SIM118
    assert set(out.keys()) == set(loss.out_keys)
    if kind == "brac_sac_penalty":
        torch.testing.assert_close(out["behaviour_divergence"], expected["divergence"])


def test_the_divergence_starts_at_its_value_for_a_zero_witness():
    loss = make()
    for parameter in loss.behaviour_critic.parameters():
        parameter.data.zero_()
    out = run(loss, batch(8))
    assert out["behaviour_divergence"].item() == pytest.approx(-0.0597, abs=1e-4)
    assert out["loss_behaviour_critic"].item() == pytest.approx(0.0597, abs=1e-4)


def test_the_penalty_follows_the_divergence_in_training_mode_only():
    loss = make(penalty_init=3.0, divergence_target=0.05)
    run(loss.eval(), batch(8))
    assert loss.penalty.item() == 3.0
    buffer = loss.penalty
    out = run(loss.train(), batch(8))
    assert loss.penalty.item() == pytest.approx(3.0 + out["behaviour_divergence"].item() - 0.05)
    assert loss.penalty is buffer and "penalty" in loss.state_dict()


@pytest.mark.parametrize(("penalty", "used"), [(-4.0, 0.0), (9.0, 2.0), (1.5, 1.5)])
def test_the_penalty_is_clipped_where_it_is_used(penalty, used):
    with_penalty, td = make(penalty_init=penalty, penalty_max=2.0), batch(8)
    plain = make("brac_sac")
    plain.load_state_dict(with_penalty.state_dict(), strict=False)
    out = run(with_penalty, td)
    expected = run(plain, td)["loss_actor"] + used * out["behaviour_divergence"]
    torch.testing.assert_close(out["loss_actor"], expected)


def groups(loss):
    return {
        "loss_actor": list(loss.actor_network_params.values(True, True)),
        "loss_qvalue": list(loss.qvalue_network_params.values(True, True)),
        "loss_value": list(loss.value_network_params.values(True, True)),
        "loss_behaviour_critic": list(loss.behaviour_critic.parameters()),
    }


def test_each_loss_reaches_its_own_network_only():
    loss, td = make(), batch(24)
    td["task_context"].requires_grad_()
    out = run(loss, td)
    for name in LOSSES:
        for owner, parameters in groups(loss).items():
            grads = torch.autograd.grad(out[name], parameters, retain_graph=True, allow_unused=True)
            reached = [grad is not None and bool(grad.abs().sum() > 0) for grad in grads]
            assert all(reached) if owner == name else not any(reached), (name, owner)
    assert not any(p.requires_grad for p in loss.target_value_network_params.values(True, True))
    assert not out["entropy"].requires_grad and not out["behaviour_divergence"].requires_grad


def test_the_actor_learns_through_the_divergence():
    td, pulls = batch(24), []
    for penalty in (0.0, 1000.0):
        loss = make(penalty_init=penalty)
        grads = torch.autograd.grad(run(loss, td)["loss_actor"], groups(loss)["loss_actor"])
        pulls.append(sum(grad.abs().sum().item() for grad in grads))
    assert pulls[1] > 10 * pulls[0]


def test_soft_update_moves_the_target_value_network():
    loss = make()
    updater = SoftUpdate(loss, tau=0.005)  # starts by setting the target equal to the network
    loss.value_network_params.data.apply_(lambda p: p.add_(torch.randn_like(p)))
    before = loss.target_value_network_params.data.clone()
    updater.step()
    expected = before * 0.995 + loss.value_network_params.data * 0.005
    moved = loss.target_value_network_params.data
    for key in moved.keys(True, True):
        torch.testing.assert_close(moved[key], expected[key])
        assert not torch.equal(moved[key], before[key])


def test_the_shape_of_the_batch_does_not_matter():
    td = batch(4, 6)
    nested, flat = run(make().eval(), td), run(make().eval(), td.reshape(24))
    for name in LOSSES:
        torch.testing.assert_close(nested[name], flat[name])


def test_reduction():
    td = batch(4, 6)
    none, mean, total = (run(make(reduction=how).eval(), td) for how in ("none", "mean", "sum"))
    assert none.batch_size == (4, 6)
    for name in LOSSES:
        torch.testing.assert_close(none[name].mean(), mean[name])
        torch.testing.assert_close(none[name].sum(), total[name])


def test_the_input_is_left_unchanged():
    td = batch(8)
    before = td.clone()
    run(make(reward_scale=7.0), td)
    assert set(td.keys(True, True)) == set(before.keys(True, True)) and (td == before).all()


def test_dispatch_by_keywords():
    loss, td = make().eval(), batch(8)
    expected = run(loss, td)
    keywords = {"_".join(k) if isinstance(k, tuple) else k: td[k] for k in loss.in_keys}
    torch.manual_seed(2)
    for name, value in zip(loss.out_keys, loss(**keywords), strict=True):
        torch.testing.assert_close(value, expected[name])


def test_set_keys_with_nested_entries():
    reference, td = make("brac_sac"), batch(8)
    s, z, a = ("agent", "observation"), ("agent", "z"), ("agent", "action")
    loss = BRACSACLoss(
        make_actor(action_dim=2, **SIZES, in_keys=[s, z], out_key=a),
        make_qvalue(action_dim=2, **SIZES, in_keys=[s, a, z], out_key=("critic", "q")),
        make_value(**SIZES, in_keys=[s, z], out_key=("critic", "v")),
        gamma=0.9,
    )
    loss.set_keys(
        action=a,
        reward=("agent", "reward"),
        done=("agent", "done"),
        terminated=("agent", "terminated"),
    )
    loss.load_state_dict(reference.state_dict())

    def agent(step):
        names = {"observation": "observation", "task_context": "z", "action": "action"}
        names |= {"reward": "reward", "done": "done", "terminated": "terminated"}
        return {"agent": {new: step[old] for old, new in names.items() if old in step.keys()}}  # noqa: SIM118

    renamed = TensorDict(agent(td) | {"next": agent(td["next"])}, td.batch_size)
    out, expected = run(loss, renamed), run(reference, td)
    for name in LOSSES[:3]:
        torch.testing.assert_close(out[name], expected[name])
    assert ("next", "agent", "reward") in loss.in_keys and a in loss.in_keys
    with pytest.raises(ValueError, match="nonsense"):
        loss.set_keys(nonsense="x")


@pytest.mark.parametrize(
    "missing",
    [
        "observation",
        "action",
        "task_context",
        ("next", "reward"),
        ("next", "observation"),
        ("next", "task_context"),
    ],
)
def test_a_missing_entry_is_named(missing):
    name = missing if isinstance(missing, str) else missing[-1]
    with pytest.raises(KeyError, match=name):
        make()(batch(8).exclude(missing))


def test_state_dict_round_trip():
    source, target, td = make(seed=0), make(seed=5), batch(8)
    run(source, td)  # moves the penalty
    target.load_state_dict(source.state_dict())
    assert target.penalty == source.penalty
    out, expected = run(target.eval(), td), run(source.eval(), td)
    for name in LOSSES:
        torch.testing.assert_close(out[name], expected[name])


def test_the_critics_are_independent():
    first, second = (make().qvalue_network_params[k] for k in range(2))
    weights = [key for key in first.keys(True, True) if key[-1] == "weight"]
    assert weights and not any(torch.equal(first[key], second[key]) for key in weights)


def test_another_value_estimator_keeps_the_discount():
    loss = make("brac_sac")
    for kind in (ValueEstimators.TD1, ValueEstimators.TDLambda, None):
        loss.make_value_estimator(kind)
        assert loss.value_estimator.gamma.item() == pytest.approx(0.9)
    loss.make_value_estimator(gamma=0.5)
    assert loss.value_estimator.gamma.item() == pytest.approx(0.5)
    with pytest.raises(NotImplementedError, match="GAE"):
        loss.make_value_estimator(ValueEstimators.GAE)


@pytest.mark.parametrize("kind", ["brac_sac", "iql"])
def test_the_acting_policy_follows_the_loss(kind):
    loss = policy_loss(kind)
    policy, td = ActingPolicy(loss), batch(8).exclude("action")
    before = policy(td.clone())["action"]
    loss.actor_network_params.data.apply_(lambda p: p.mul_(2.0))
    after = policy(td.clone())["action"]
    assert not torch.allclose(before, after)
    parameters = list(loss.actor_network_params.values(True, True))
    grads = torch.autograd.grad(after.sum(), parameters, allow_unused=True, retain_graph=True)
    assert all(grad is None for grad in grads)
    with loss.actor_network_params.to_module(loss.actor_network):
        torch.testing.assert_close(after, loss.actor_network.get_dist(td).loc.tanh())


def test_configurations():
    problem = Problem(3, 2, 0.8, ("next", "reward"), False, {"observation": (torch.zeros(3), torch.ones(3))})
    plain = BRACSACConfig(hidden=[8], reward_scale=3.0).build(problem, 5)
    assert plain.behaviour_critic is None and plain.reward_scale == 3.0
    assert plain.value_estimator.gamma.item() == pytest.approx(0.8)
    kept = BRACSACConfig(hidden=[8], behaviour_penalty=True, penalty_init=2.0, penalty_max=7.0).build(
        problem, 5
    )
    assert kept.behaviour_critic is not None and kept.penalty.item() == 2.0 and kept.penalty_max == 7.0
    iql = IQLConfig(hidden=[8], expectile=0.7, temperature=4.0).build(problem, 5)
    assert (iql.expectile, iql.temperature, iql.loss_function) == (0.7, 4.0, "l2")
    assert iql.value_estimator.gamma.item() == pytest.approx(0.8)
    problem.statistics["next", "reward"] = torch.tensor([3.0]), torch.tensor([2.0])
    seen = {
        rewards: IQLConfig(hidden=[8], rewards=rewards)
        .build(problem, 5)
        .standardise_reward(torch.tensor([5.0]))
        for rewards in ("raw", "scaled", "standardised")
    }
    assert {name: value.item() for name, value in seen.items()} == {
        "raw": 5.0, "scaled": 2.5, "standardised": 1.0
    }  # fmt: skip
    with pytest.raises(ValueError, match="policy_loss.rewards='clipped'; choose one of raw"):
        IQLConfig(rewards="clipped").build(problem, 5)
    with pytest.raises(ValueError, match="is not a registered policy loss"):
        PolicyLossConfig().build(problem, 5)


def test_far_beyond_saturation_entropy_pulls_back():
    """-log pi of a saturated action is small, and grows towards the middle: the score must say so."""
    loc = torch.tensor([[20.0, -12.0], [3.0, -3.0]], requires_grad=True)
    distribution = TanhNormal(loc, torch.full_like(loc, 0.1))
    action, log_prob = sample_and_score(distribution)
    # log(1 - tanh(u)^2) is about log 4 - 2 |u| for large |u|
    normal = torch.distributions.Normal(loc, 0.1)
    torch.testing.assert_close(
        log_prob[0], normal.entropy()[0].neg().sum() + 2 * 32.0 - 2 * math.log(4.0), atol=5.0, rtol=0
    )
    (gradient,) = torch.autograd.grad(log_prob.sum(), loc)
    torch.testing.assert_close(gradient, 2.0 * loc.detach().sign(), atol=0.05, rtol=0)
    assert action.abs().max() <= 1


def test_other_distributions_are_scored_the_plain_way():
    torch.manual_seed(0)
    distribution = torch.distributions.Independent(torch.distributions.Normal(torch.zeros(4, 2), 1.0), 1)
    action, log_prob = sample_and_score(distribution)
    torch.testing.assert_close(log_prob, distribution.log_prob(action))


def test_a_selection_of_losses_survives_new_keys():
    loss = policy_loss("brac_sac")
    loss.select_out_keys("loss_qvalue")
    loss.set_keys(action="action")
    assert set(loss(batch(4, 6)).keys()) == {"loss_qvalue"}


def test_the_penalty_needs_its_divergence_where_the_critic_teaches_the_encoder():
    policy = policy_loss("brac_sac_penalty")
    policy.select_out_keys("loss_actor", "loss_qvalue", "loss_value", "loss_behaviour_critic")
    loss = MetaLoss(make_encoder(), NoRepresentationLoss(), policy, critic_gradient="all")
    with pytest.raises(ValueError, match="behaviour_divergence, which is not among the losses"):
        loss(meta_batch())
