from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict

from ctmrl_torchrl.modules import Codebook, match_codes, moving_update


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def contexts(values, key="task_context"):
    return TensorDict({key: values}, [values.shape[0]])


def cosine(a, b):
    dot = sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
    return dot / math.sqrt(sum(x * x for x in a.tolist())) / math.sqrt(sum(y * y for y in b.tolist()))


def test_eq_1_matches_the_code_of_largest_cosine():
    context, codes = randn(7, 3), randn(4, 3, seed=1)
    similarity, index = match_codes(context, codes)
    for t in range(7):
        row = [cosine(context[t], codes[n]) for n in range(4)]
        assert similarity[t].tolist() == pytest.approx(row, abs=1e-5)
        assert index[t] == max(range(4), key=row.__getitem__)


def test_matching_looks_at_directions_only():
    codes = torch.tensor([[100.0, 0.0], [0.0, 0.01]])
    assert match_codes(torch.tensor([[0.1, 0.5], [9.0, 1.0]]), codes)[1].tolist() == [1, 0]


def literal_update(codes, context, index, rate):
    new = codes.clone()
    for n in range(codes.shape[0]):
        mine = [context[t] for t in range(context.shape[0]) if index[t] == n]
        if mine:
            new[n] = (1 - rate) * codes[n] + rate * sum(mine) / len(mine)
    return new


@settings(max_examples=30, deadline=None)
@given(
    index=st.lists(st.integers(0, 3), min_size=1, max_size=9), rate=st.floats(0, 1), seed=st.integers(0, 99)
)
def test_eq_2_is_the_literal_loop_and_free_of_order(index, rate, seed):
    codes, context = randn(4, 3, seed=seed), randn(len(index), 3, seed=seed + 1)
    index = torch.tensor(index)
    moved = moving_update(codes, context, index, rate)
    torch.testing.assert_close(moved, literal_update(codes, context, index, rate))
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(moving_update(codes, context[order], index[order], rate), moved)
    unmatched = [n for n in range(4) if n not in index.tolist()]
    assert torch.equal(moved[unmatched], codes[unmatched])


def test_eq_2_for_one_context_is_the_papers_formula():
    codes = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    moved = moving_update(codes, torch.tensor([[2.0, 4.0]]), torch.tensor([1]), 0.25)
    torch.testing.assert_close(moved, torch.tensor([[1.0, 0.0], [0.5, 1.75]]))


def test_forward_moves_the_codes_in_training_mode_only_and_in_place():
    codebook = Codebook(4, 3, update_rate=0.5)
    parameter, address = codebook.codes, codebook.codes.data_ptr()
    before, usage, context = codebook.codes.detach().clone(), codebook.usage.clone(), randn(6, 3)
    codebook.eval()(contexts(context))
    assert torch.equal(codebook.codes, before) and torch.equal(codebook.usage, usage)
    out = codebook.train()(contexts(context))
    expected = literal_update(before, context, match_codes(context, before)[1], 0.5)
    torch.testing.assert_close(codebook.codes.detach(), expected)
    assert not torch.equal(codebook.usage, usage)
    assert codebook.codes is parameter and codebook.codes.data_ptr() == address
    # what is written is the code after its move
    torch.testing.assert_close(out["cross_task_context"], expected[out["code_index"]])


def test_the_written_code_passes_gradient_to_the_codes_but_not_to_the_context():
    codebook, context = Codebook(4, 3), randn(6, 3).requires_grad_()
    out = codebook(contexts(context))
    assert not out["code_index"].requires_grad
    out["cross_task_context"].sum().backward()
    counts = torch.bincount(out["code_index"], minlength=4).float()
    torch.testing.assert_close(codebook.codes.grad, counts[:, None].expand(4, 3))
    assert context.grad is None


def test_keys_can_be_nested():
    codebook = Codebook(2, 3, in_key=("a", "c"), index_key=("a", "i"), out_key=("b", "code"))
    out = codebook(contexts(randn(5, 3), ("a", "c")))
    assert out["b", "code"].shape == (5, 3) and out["a", "i"].dtype == torch.int64


def test_state_dict_round_trip_includes_the_usage():
    source, target = Codebook(3, 2), Codebook(3, 2)
    for seed in range(5):
        source(contexts(randn(4, 2, seed=seed)))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.codes, source.codes) and torch.equal(target.usage, source.usage)
    assert target.usage.sum() == pytest.approx(1.0)


def test_usage_is_a_running_frequency():
    codebook = Codebook(2, 2, usage_rate=0.1, update_rate=0.0)
    codebook.initialise_(torch.eye(2))
    codebook(contexts(torch.tensor([[1.0, 0.0], [2.0, 0.1], [3.0, 0.0], [0.0, 1.0]])))
    torch.testing.assert_close(codebook.usage, torch.tensor([0.525, 0.475]))


@pytest.mark.parametrize(
    ("usage", "perplexity", "dead"),
    [
        ([0.25, 0.25, 0.25, 0.25], 4.0, 0),
        ([1.0, 0.0, 0.0, 0.0], 1.0, 3),
        ([0.5, 0.5, 0.0, 0.0], 2.0, 2),
        ([0.5, 0.25, 0.23, 0.02], math.exp(-sum(p * math.log(p) for p in (0.5, 0.25, 0.23, 0.02))), 1),
    ],
)
def test_perplexity_and_dead_codes(usage, perplexity, dead):
    codebook = Codebook(4, 2)
    codebook.usage.copy_(torch.tensor(usage))
    assert codebook.perplexity().item() == pytest.approx(perplexity)
    assert codebook.dead_codes().item() == dead


def test_initialise_replaces_codes_in_place_and_forgets_the_usage():
    codebook = Codebook(2, 2)
    parameter = codebook.codes
    codebook.usage.copy_(torch.tensor([0.9, 0.1]))
    codebook.initialise_(torch.tensor([[3.0, 4.0], [5.0, 6.0]]))
    assert codebook.codes is parameter and codebook.codes.tolist() == [[3.0, 4.0], [5.0, 6.0]]
    assert codebook.usage.tolist() == [0.5, 0.5]


def test_merge_is_eq_1_and_2_on_the_centres():
    codebook, centres = Codebook(3, 2, update_rate=0.3), randn(3, 2)
    before, usage = codebook.codes.detach().clone(), codebook.usage.clone()
    codebook.merge_(centres)
    expected = literal_update(before, centres, match_codes(centres, before)[1], 0.3)
    torch.testing.assert_close(codebook.codes.detach(), expected)
    assert torch.equal(codebook.usage, usage)


def test_initial_codes_come_from_the_generator():
    first, second, third = (
        Codebook(3, 2, generator=torch.Generator().manual_seed(seed)).codes for seed in (1, 1, 2)
    )
    assert torch.equal(first, second) and not torch.equal(first, third)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_codes": 0}, "num_codes=0"),
        ({"context_dim": 0}, "context_dim=0"),
        ({"update_rate": 1.5}, "update_rate=1.5"),
        ({"update_rate": -0.1}, "update_rate=-0.1"),
        ({"usage_rate": 2.0}, "usage_rate=2.0"),
    ],
)
def test_bad_options_raise(options, message):
    with pytest.raises(ValueError, match=message):
        Codebook(**({"num_codes": 2, "context_dim": 2} | options))


def test_bad_inputs_raise():
    codebook = Codebook(3, 2)
    with pytest.raises(ValueError, match="latent size 5"):
        codebook(contexts(randn(4, 5)))
    with pytest.raises(KeyError, match="task_context"):
        codebook(contexts(randn(4, 2), "other"))
    with pytest.raises(ValueError, match="num_codes=3"):
        codebook.initialise_(randn(4, 2))
