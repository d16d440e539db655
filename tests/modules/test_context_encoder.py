from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.modules import ContextEncoder, EncoderConfig, make_context_encoder
from ctmrl_torchrl.problem import Problem

FEATURES = {("context", "observation"): 2, ("context", "next", "reward"): 1}


def make(pool="mean", **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_context_encoder(
            feature_dims=FEATURES, context_dim=4, hidden=(8, 6), head_hidden=(5,), pool=pool, **options
        )


def batch(tasks=3, length=5, mask=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    context = {
        "observation": torch.randn(tasks, length, 2, generator=generator),
        "next": {"reward": torch.randn(tasks, length, 1, generator=generator)},
    }
    if mask is not None:
        context["mask"] = mask
    return TensorDict({"context": TensorDict(context, [tasks, length])}, [tasks])


def ragged(*lengths, length):
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def literal(encoder, td):
    """Row by row, transition by transition."""
    context, rows = td["context"], []
    for t in range(context.shape[0]):
        codes = []
        for i in range(context.shape[1]):
            if "mask" not in context.keys() or context["mask"][t, i]:  # noqa: SIM118
                features = torch.cat([context["observation"][t, i], context["next", "reward"][t, i]])
                codes.append(encoder.transition_network(features))
        rows.append(encoder.head(sum(codes) / len(codes)))
    return torch.stack(rows)


@pytest.mark.parametrize("pool", ["mean", "mean_mlp"])
@pytest.mark.parametrize("mask", [None, ragged(1, 5, 3, length=5)])
def test_the_context_is_the_mean_over_the_transitions_that_count(pool, mask):
    encoder, td = make(pool), batch(mask=mask)
    torch.testing.assert_close(encoder(td)["task_context"], literal(encoder, td))


@pytest.mark.parametrize("pool", ["mean", "mean_mlp"])
@settings(max_examples=10, deadline=None)
@given(order=st.permutations(range(5)))
def test_the_order_of_transitions_does_not_matter(pool, order):
    encoder, td = make(pool), batch(mask=ragged(2, 5, 3, length=5))
    shuffled = TensorDict({"context": td["context"][:, list(order)]}, [3])
    torch.testing.assert_close(encoder(shuffled)["task_context"], encoder(td)["task_context"])


@pytest.mark.parametrize("pool", ["mean", "mean_mlp"])
def test_padding_influences_neither_values_nor_gradients(pool):
    mask = ragged(2, 5, 3, length=5)
    results = []
    for filling in (0.0, 1e4):
        encoder, td = make(pool), batch(mask=mask)
        td["context", "observation"][~mask] = filling
        td["context", "next", "reward"][~mask] = -filling
        td["context", "observation"].requires_grad_()
        context = encoder(td)["task_context"]
        context.square().sum().backward()
        assert (td["context", "observation"].grad[~mask] == 0).all()
        assert (td["context", "observation"].grad[mask] != 0).any()
        results.append([context.detach(), *(p.grad for p in encoder.parameters())])
    for first, second in zip(*results, strict=True):
        torch.testing.assert_close(first, second)


def test_a_padded_batch_equals_its_rows_alone():
    encoder, td = make(), batch(mask=ragged(2, 5, 3, length=5))
    context = encoder(td)["task_context"]
    for row, length in enumerate((2, 5, 3)):
        alone = TensorDict({"context": td["context"][row : row + 1, :length].exclude("mask")}, [1])
        torch.testing.assert_close(encoder(alone)["task_context"][0], context[row])


def test_an_empty_context_raises():
    with pytest.raises(ValueError, match="length 0"):
        make()(batch(length=0))


def test_a_missing_feature_is_named():
    with pytest.raises(KeyError, match=r"ContextEncoder reads \('context', 'next', 'reward'\)"):
        make()(batch().exclude(("context", "next", "reward")))


def test_mean_is_the_papers_encoder_and_mean_mlp_adds_layers_after_it():
    mean, mlp = make("mean"), make("mean_mlp")
    assert not list(mean.head.parameters()) and isinstance(mean.transition_network[-1], torch.nn.Tanh)
    assert [p.shape for p in mlp.head.parameters()] == [(5, 6), (5,), (4, 5), (4,)]
    assert mlp(batch())["task_context"].abs().max() <= 1
    with pytest.raises(ValueError, match="pool='max'"):
        make("max")


def test_statistics_standardise_the_features():
    loc, scale = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2.0, 0.5, 0.0])
    plain, scaled, td = make(), make(feature_statistics=(loc, scale)), batch()
    expected = td.clone()
    expected["context", "observation"] = (td["context", "observation"] - loc[:2]) / scale[:2]
    expected["context", "next", "reward"] = td["context", "next", "reward"] - loc[2:]  # zero scale: one
    torch.testing.assert_close(scaled(td)["task_context"], plain(expected)["task_context"])


def test_other_keys():
    encoder = ContextEncoder(
        torch.nn.Linear(2, 3), in_keys=[("demo", "x")], out_key=("out", "z"), mask_key=("demo", "real")
    )
    demo = TensorDict({"x": torch.randn(2, 4, 2), "real": ragged(1, 4, length=4)}, [2, 4])
    out = encoder(TensorDict({"demo": demo}, [2]))
    torch.testing.assert_close(out["out", "z"][0], encoder.transition_network(demo["x"][0, 0]))


@pytest.mark.parametrize("with_next", [False, True])
def test_the_configuration_takes_features_and_statistics_from_the_problem(with_next):
    reward = ("next", "sparse_reward")
    sizes = {"observation": 2, "action": 3, reward: 1, ("next", "observation"): 2}
    statistics = {key: (torch.full((n,), 2.0), torch.full((n,), 4.0)) for key, n in sizes.items()}
    statistics["observation_change"] = torch.full((2,), 1.0), torch.full((2,), 0.5)
    problem = Problem(2, 3, 0.9, reward, with_next, statistics)
    encoder = EncoderConfig(context_dim=5, hidden=[7]).build(problem)
    expected = [("context", "observation"), ("context", "action"), ("context", *reward)]
    expected += [("context", "next", "observation")] if with_next else []
    assert encoder.in_keys == expected
    *relative, scaling = list(encoder.transition_network)[:-2]
    assert scaling.loc.tolist() == [2.0] * 6 + [1.0] * (2 if with_next else 0)
    features = torch.arange(8.0 if with_next else 6.0)
    for module in relative:
        features = module(features)
    assert features.tolist() == [0, 1, 2, 3, 4, 5] + ([6, 6] if with_next else [])
    plain = EncoderConfig(hidden=[7], feature_gain=None).build(problem)
    assert len(plain.transition_network) == len(encoder.transition_network) - 1


@pytest.mark.parametrize(
    ("root", "mask_key"),
    [
        (("context",), ("context", "mask")),
        (("context", "next"), ("context", "mask")),
        (("demo", "past"), ("demo", "past", "mask")),
        (("next",), "mask"),
        ((), "mask"),
    ],
)
def test_the_mask_lies_beside_the_features(root, mask_key):
    key = (*root, "observation") if root else "observation"
    encoder = make_context_encoder(feature_dims={key: 2}, context_dim=3, hidden=[4])
    assert encoder.mask_key == mask_key
    td = TensorDict({key: torch.randn(5, 7, 2)}, [5])
    whole = encoder(td.clone())["task_context"]
    padded = td.clone().set(mask_key, torch.arange(7).expand(5, 7) < 4)
    td.set(key, td[key][:, :4])
    torch.testing.assert_close(encoder(padded)["task_context"], encoder(td)["task_context"])
    assert not torch.allclose(whole, encoder(td)["task_context"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_flags_take_the_type_of_the_other_features(dtype):
    keys = [("context", "next", "terminated"), ("context", "observation")]
    encoder = ContextEncoder(nn.Linear(3, 4).to(dtype), in_keys=keys)
    context = {
        "observation": torch.randn(5, 7, 2, dtype=dtype),
        "next": {"terminated": torch.rand(5, 7, 1) < 0.5},
    }
    assert encoder(TensorDict({"context": context}, [5]))["task_context"].dtype == dtype
