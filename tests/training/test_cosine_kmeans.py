from __future__ import annotations

import warnings

import pytest
import torch

from ctmrl_torchrl.methods import cosine_kmeans


def clusters(seed=0):
    """Three directions; within each the lengths differ wildly, the directions hardly."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    label = torch.arange(3).repeat_interleave(10)[torch.randperm(30, generator=generator)]
    length = 0.05 + 5.0 * torch.rand(30, 1, generator=generator)
    noise = 0.02 * torch.randn(30, 3, generator=generator)
    return (directions[label] + noise) * length, label


def test_separated_directions_are_recovered():
    contexts, label = clusters()
    centres = cosine_kmeans(contexts, 3)
    expected = torch.stack([contexts[label == k].mean(0) for k in range(3)])
    distance = torch.cdist(expected, centres)
    assert sorted(distance.argmin(-1).tolist()) == [0, 1, 2]
    assert distance.min(-1).values.max() < 1e-5


def test_it_follows_its_seed_and_not_the_global_one():
    contexts = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    first = cosine_kmeans(contexts, 6, seed=3)
    torch.manual_seed(123)
    assert torch.equal(first, cosine_kmeans(contexts, 6, seed=3))


def test_fewer_contexts_than_codes_raise():
    with pytest.raises(ValueError, match="got 2 contexts for 3 codes"):
        cosine_kmeans(torch.randn(2, 4), 3)


def test_kmeans_never_leaves_a_code_at_zero():
    contexts = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn tells of fewer distinct points than clusters
        centres = cosine_kmeans(contexts, 3)
    assert (centres.norm(dim=-1) > 0.5).all()
