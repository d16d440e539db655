"""A dual estimate of KL(policy || behavior), the regularizer of BRAC."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EPSILON = 1e-8


def dual_divergence(witness_policy: Tensor, witness_data: Tensor) -> Tensor:
    """f-divergence lower bound of KL(pi || behavior) with the witness ``1 + log softplus(C)``.

    ``D = 1 + log(softplus(C(s, a_pi)) + 1e-8) - softplus(C(s, a))``: -0.0597 where C is zero.
    """
    return 1.0 + torch.log(functional.softplus(witness_policy) + EPSILON) - functional.softplus(witness_data)


def witness_penalty(witness_between: Tensor) -> Tensor:
    """Penalty for |C| above 1 between policy and data actions: ``max(sqrt(1e-8 + C^2) - 1, 0)^2``."""
    return (torch.sqrt(EPSILON + witness_between.square()) - 1.0).clamp_min(0.0).square()
