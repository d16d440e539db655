"""Losses: one representation loss per method, interchangeable policy losses, and their sum."""

from __future__ import annotations

from ctmrl_torchrl.objectives.ctmrl import CTMRLLoss
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.policy import BRACSACLoss, make_iql_loss
from ctmrl_torchrl.objectives.representation import CQVAELoss, ReleasedCTMRLLoss, RepresentationLoss
from ctmrl_torchrl.objectives.stacked import StackedLoss

__all__ = [
    "BRACSACLoss",
    "CQVAELoss",
    "CTMRLLoss",
    "MetaLoss",
    "ReleasedCTMRLLoss",
    "RepresentationLoss",
    "StackedLoss",
    "make_iql_loss",
]
