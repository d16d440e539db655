"""Policy losses on (observation, detached task context): interchangeable."""

from __future__ import annotations

from ctmrl_torchrl.objectives.policy.acting import ActingPolicy
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig, TargetUpdate
from ctmrl_torchrl.objectives.policy.brac_sac import BRACSACConfig, BRACSACLoss
from ctmrl_torchrl.objectives.policy.iql import IQLConfig, make_iql_loss

__all__ = [
    "POLICY_LOSSES",
    "ActingPolicy",
    "BRACSACConfig",
    "BRACSACLoss",
    "IQLConfig",
    "PolicyLossConfig",
    "TargetUpdate",
    "make_iql_loss",
]
