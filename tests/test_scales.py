from __future__ import annotations

import pytest
import torch

from ctmrl_torchrl.scales import usable_scale, varies


@pytest.mark.parametrize("unit", [1e-30, 1e-9, 1e-3, 1.0, 1e6, 1e30])
def test_the_unit_does_not_matter(unit):
    values = torch.tensor([-1.0, 0.5, 2.0]) * unit
    assert usable_scale(values.mean(), values.std()) == values.std()
    constant = torch.full((64,), 0.1) * unit
    noisy = constant * (1 + torch.tensor([0.0, 6e-8]).repeat(32))
    for column in (constant, noisy):
        assert usable_scale(column.mean(), column.std()) == 1.0


def test_a_mean_of_zero_leaves_every_spread_but_none():
    assert varies(torch.tensor([1e-20, 0.0]), torch.zeros(2)).tolist() == [True, False]


def test_the_last_bits_of_large_values_are_kept_only_where_they_are_information():
    stamps = torch.arange(100.0) + 1e6  # 16 units of rounding apart
    assert varies(stamps.std(), stamps.mean())
    same = torch.full((100,), 1e6) + torch.arange(100).remainder(2) * 0.0625  # one unit of rounding
    assert not varies(same.std(), same.mean())


def test_changes_are_judged_by_what_was_subtracted():
    clock = (torch.arange(400, dtype=torch.float64) * 0.05 + 1000).float()
    change = clock.diff()
    assert change.std() > 1e-6 * change.mean()
    assert usable_scale(change.mean(), change.std()) != 1.0
    assert usable_scale(change.mean(), change.std(), magnitude=clock.abs().max()) == 1.0
    moved = (clock + torch.randn(400, generator=torch.Generator().manual_seed(0))).diff()
    assert usable_scale(moved.mean(), moved.std(), magnitude=clock.abs().max()) == moved.std()


def test_nan_is_not_hidden():
    assert usable_scale(torch.tensor(0.0), torch.tensor(float("nan"))).isnan()


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"mean has shape \[2\] but spread \[3\]"):
        usable_scale(torch.zeros(2), torch.ones(3))
