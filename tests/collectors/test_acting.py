from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from hand_made_agents import Walker
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal

from ctmrl_torchrl.collectors.acting import bound, direct
from ctmrl_torchrl.modules import make_actor


def inputs(rows=5):
    values = {"observation": torch.randn(rows, 3), "task_context": torch.randn(rows, 4)}
    return TensorDict(values, [rows])


def one_network_actor(**options):
    network = nn.Sequential(nn.Linear(3, 4), NormalParamExtractor())
    return ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]),
        in_keys=["loc", "scale"],
        out_keys=["action"],
        distribution_class=TanhNormal,
        distribution_kwargs=options,
    )


def saturated():
    actor = one_network_actor()
    with torch.no_grad():
        actor[0].module[0].weight.mul_(1e4)
    return actor


ACTORS = {
    "of the library": lambda: make_actor(observation_dim=3, context_dim=4, action_dim=2),
    "of one network": one_network_actor,
    "saturated": saturated,
    "with other bounds": lambda: one_network_actor(low=-2.0, high=1.0),
    "with bounds by action": lambda: one_network_actor(low=-torch.ones(2), high=torch.tensor([1.0, 3.0])),
    "with a bounded mean": lambda: one_network_actor(tanh_loc=True),
}


@pytest.mark.parametrize("make", ACTORS.values(), ids=list(ACTORS))
@pytest.mark.parametrize("exploration", [ExplorationType.DETERMINISTIC, ExplorationType.RANDOM])
def test_direct_calls_give_the_same_numbers_and_entries(make, exploration):
    actor, td = make(), inputs()
    act = direct(actor)
    assert act is not actor
    with torch.no_grad(), set_exploration_type(exploration):
        torch.manual_seed(1)
        expected = actor(td.clone())
        torch.manual_seed(1)
        found = act(td.clone())
    assert set(found.keys()) == set(expected.keys())
    assert all(torch.equal(found[key], expected[key]) for key in expected.keys())  # noqa: SIM118


def test_an_action_that_is_no_number_stays_none():
    actor = one_network_actor()
    with torch.no_grad(), set_exploration_type(ExplorationType.DETERMINISTIC):
        actor[0].module[0].bias[0] = float("nan")
        for act in (actor, direct(actor)):
            assert act(inputs())["action"].isnan().tolist() == [[True, False]] * 5


def test_direct_calls_can_be_differentiated():
    actor, td = one_network_actor(), inputs()
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        gradients = [
            torch.autograd.grad(act(td.clone())["action"].sum(), list(actor.parameters()))
            for act in (actor, direct(actor))
        ]
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def test_direct_calls_follow_the_parameters():
    actor, td = make_actor(observation_dim=3, context_dim=4, action_dim=2), inputs()
    act = direct(actor)
    with torch.no_grad():
        before = act(td.clone())["action"]
        for parameter in actor.parameters():
            parameter.add_(0.5)
        assert torch.equal(act(td.clone())["action"], actor(td.clone())["action"])
        assert not torch.equal(act(td.clone())["action"], before)


class Clipped(ProbabilisticActor):
    """An actor that does more than its modules say."""

    def forward(self, tensordict):
        out = super().forward(tensordict)
        return out.set("action", out["action"].clamp(-0.1, 0.1))


def hooked():
    actor = one_network_actor()
    actor[0].register_forward_hook(lambda module, args, out: out)
    return actor


def method_of_a_module():
    return ProbabilisticActor(
        TensorDictModule(NormalParamExtractor(), ["p"], ["loc", "scale"], method="forward"),
        in_keys=["loc", "scale"],
        distribution_class=TanhNormal,
    )


def clipped():
    inner = one_network_actor()
    return Clipped(inner[0], in_keys=["loc", "scale"], out_keys=["action"], distribution_class=TanhNormal)


@pytest.mark.parametrize("make", [Walker, clipped, hooked, method_of_a_module])
def test_what_is_not_plain_is_called_as_it_is(make):
    actor = make()
    assert direct(actor) is actor


def test_an_actor_can_bind_its_parameters_for_many_calls():
    class Lender(Walker):
        lent = 0

        @contextmanager
        def bound(self):
            self.lent += 1
            yield Walker()
            self.lent -= 1

    lender = Lender()
    with bound(lender) as actor:
        assert type(actor) is Walker and lender.lent == 1
    assert lender.lent == 0
    with bound(actor) as same:
        assert same is actor
