"""Padding changes no value of a term that has a mask, and no gradient as long as it is finite."""

from __future__ import annotations

import pytest
import torch
from term_checks import MASK, agree, draw

from ctmrl_torchrl.modules.masked import masked_mean
from ctmrl_torchrl.objectives.representation import club_bound, posterior_error
from ctmrl_torchrl.objectives.representation.likelihood import gaussian_error
from ctmrl_torchrl.objectives.representation.terms import prediction_error, prediction_norm


def test_padding_may_hold_anything():
    target, loc = draw(3, 6, 2), draw(3, 6, 2, seed=1).requires_grad_()

    def error(padding):
        spoilt = target.masked_fill(~MASK.unsqueeze(-1), padding)
        return gaussian_error(loc, torch.zeros_like(loc), spoilt, MASK)

    torch.testing.assert_close(error(torch.nan), error(0.0))
    agree(error(1e30), error(0.0), loc)
    assert masked_mean(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)).tolist() == [0, 0]


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf"), 1e30])
def test_padding_may_hold_any_values(spoilt):
    mask = torch.tensor([[True, True, False], [True, False, False]])
    values = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    bad = torch.where(mask.unsqueeze(-1), values, spoilt)
    expected = torch.stack([values[0, :2].mean(0), values[1, 0]])
    torch.testing.assert_close(masked_mean(bad, mask, -2), expected)
    torch.testing.assert_close(masked_mean(bad[..., 0], mask), expected[:, 0])
    zeros = torch.zeros_like(values)
    for error in (
        lambda x: prediction_error(x, zeros, torch.ones(4), mask),
        lambda x: prediction_norm(x, zeros, mask),
        lambda x: club_bound(zeros, zeros + 1.0, x, mask),
        lambda x: posterior_error(zeros, zeros + 1.0, x, mask),
    ):
        torch.testing.assert_close(error(bad), error(values))
