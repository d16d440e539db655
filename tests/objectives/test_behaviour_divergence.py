"""The divergence from the behavior and its penalty, by hand."""

from __future__ import annotations

import pytest
import torch

from ctmrl_torchrl.objectives.policy.behaviour_divergence import dual_divergence, witness_penalty


def test_the_dual_divergence_starts_where_the_sheet_says():
    zero = torch.zeros(1).double()
    assert dual_divergence(zero, zero).item() == pytest.approx(-0.0597, abs=5e-5)


def test_divergence_and_confinement_by_hand():
    witness = torch.tensor([0.0, 0.9, -1.0, 3.0, -2.5])
    expected = torch.tensor([0.0, 0.0, 0.0, 4.0, 2.25])
    torch.testing.assert_close(witness_penalty(witness), expected)
    at_zero = torch.zeros(1, requires_grad=True)
    witness_penalty(at_zero).sum().backward()
    assert at_zero.grad.item() == 0
