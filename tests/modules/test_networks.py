from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.modules import (
    Standardise,
    Unstandardise,
    make_actor,
    make_next_observation_predictor,
    make_qvalue,
    make_reward_predictor,
    make_value,
)

SIZES = {"observation_dim": 3, "context_dim": 2, "hidden": (8,)}


def inputs(*shape):
    sizes = {"observation": 3, "action": 2, "task_context": 2}
    return TensorDict({key: torch.randn(*shape, size) for key, size in sizes.items()}, shape)


def test_standardise_and_its_inverse():
    loc, scale = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0])
    x = torch.randn(4, 2)
    torch.testing.assert_close(
        Standardise(loc, scale)(x), torch.stack([(x[:, 0] - 1) / 0.5, x[:, 1] - 2], -1)
    )
    torch.testing.assert_close(Unstandardise(loc, scale)(Standardise(loc, scale)(x)), x)
    assert set(Standardise(loc, scale).state_dict()) == {"loc", "scale"}
    with pytest.raises(ValueError, match="one value of each per feature"):
        Standardise(loc, scale[:1])


def test_statistics_are_copied():
    loc = torch.zeros(1)
    module = Standardise(loc, torch.ones(1))
    loc.fill_(9.0)
    assert module.loc.item() == 0.0


@pytest.mark.parametrize(
    ("make", "key", "size", "statistics"),
    [
        (make_reward_predictor, "reward_prediction", 1, "target_statistics"),
        (make_next_observation_predictor, "next_observation_prediction", 3, "change_statistics"),
    ],
)
def test_predictors_read_all_inputs_and_predict_in_raw_units(make, key, size, statistics):
    torch.manual_seed(0)
    plain = make(action_dim=2, **SIZES)
    scaled = make(action_dim=2, **SIZES, **{statistics: (torch.full((size,), 5.0), torch.full((size,), 3.0))})
    scaled.load_state_dict({**scaled.state_dict(), **dict(plain.named_parameters())})
    td = inputs(4, 6)
    out = plain(td.clone())[key]
    assert out.shape == (4, 6, size)
    start = td["observation"] if size == 3 else 0.0  # the next observation is the observation and a change
    torch.testing.assert_close(scaled(td.clone())[key], start + 5.0 + 3.0 * (out - start))
    for name in ("observation", "action", "task_context"):
        changed = td.clone().set(name, td[name] + 1.0)
        assert not torch.allclose(plain(changed)[key], out)


@pytest.mark.parametrize(
    ("network", "key"),
    [(make_qvalue(action_dim=2, **SIZES), "state_action_value"), (make_value(**SIZES), "state_value")],
)
def test_critics(network, key):
    assert network(inputs(4, 6))[key].shape == (4, 6, 1)


@pytest.mark.parametrize(
    ("make", "key"), [(make_actor, "loc"), (make_qvalue, "state_action_value"), (make_value, "state_value")]
)
def test_the_observation_alone_is_standardised(make, key):
    sizes = SIZES if make is make_value else {**SIZES, "action_dim": 2}
    loc, scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.1, 0.0])
    plain, scaled = make(**sizes), make(**sizes, observation_statistics=(loc, scale))
    for mine, other in zip(scaled.parameters(), plain.parameters(), strict=True):
        mine.data.copy_(other.data)
    td = inputs(4)
    # the third never varies in the data: left in its own unit
    standardised = td.clone().set("observation", (td["observation"] - loc) / torch.tensor([0.5, 0.1, 1.0]))
    torch.testing.assert_close(scaled(td)[key], plain(standardised)[key])


def test_the_actor_is_a_squashed_gaussian():
    actor, td = make_actor(action_dim=2, **SIZES), inputs(50)
    distribution = actor.get_dist(td)
    with set_exploration_type(ExplorationType.DETERMINISTIC):
        torch.testing.assert_close(actor(td.clone())["action"], distribution.loc.tanh())
    with set_exploration_type(ExplorationType.RANDOM):
        first, second = actor(td.clone())["action"], actor(td.clone())["action"]
    assert first.abs().max() <= 1 and not torch.equal(first, second)
    action = distribution.rsample()
    pre_tanh = torch.atanh(action)
    expected = torch.distributions.Normal(distribution.loc, distribution.scale).log_prob(pre_tanh)
    expected = (expected - torch.log(1 - action.square())).sum(-1)
    torch.testing.assert_close(distribution.log_prob(action), expected, atol=1e-3, rtol=1e-3)
