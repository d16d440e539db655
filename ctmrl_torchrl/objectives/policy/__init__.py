"""Interchangeable policy losses on (observation, detached task context)."""

from __future__ import annotations

from ctmrl_torchrl.objectives.policy.acting import ActingPolicy
from ctmrl_torchrl.objectives.policy.base import POLICY_LOSSES, PolicyLossConfig, TargetUpdate
from ctmrl_torchrl.objectives.policy.bc import BCConfig, NoTargets, OfflineBCLoss, make_bc_loss
from ctmrl_torchrl.objectives.policy.brac_sac import BRACSACConfig, BRACSACLoss
from ctmrl_torchrl.objectives.policy.iql import IQLConfig, make_iql_loss
from ctmrl_torchrl.objectives.policy.sac import OfflineSACLoss, SACConfig, make_sac_loss
from ctmrl_torchrl.objectives.policy.td3_bc import (
    DelayedSoftUpdate,
    OfflineTD3BCLoss,
    TD3BCConfig,
    make_td3_bc_loss,
)

__all__ = [
    "POLICY_LOSSES",
    "ActingPolicy",
    "BCConfig",
    "BRACSACConfig",
    "BRACSACLoss",
    "DelayedSoftUpdate",
    "IQLConfig",
    "NoTargets",
    "OfflineBCLoss",
    "OfflineSACLoss",
    "OfflineTD3BCLoss",
    "PolicyLossConfig",
    "SACConfig",
    "TD3BCConfig",
    "TargetUpdate",
    "make_bc_loss",
    "make_iql_loss",
    "make_sac_loss",
    "make_td3_bc_loss",
]
