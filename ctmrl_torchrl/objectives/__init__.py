"""Losses: one representation loss per method, interchangeable policy losses, and a module that combines them."""

from __future__ import annotations

from ctmrl_torchrl.objectives.ctmrl import CTMRLLoss
from ctmrl_torchrl.objectives.encoding import ContextEncoding, Encoded
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.objectives.policy import BRACSACLoss, make_iql_loss
from ctmrl_torchrl.objectives.representation import (
    CQVAELoss,
    MetricLoss,
    NoRepresentationLoss,
    ReleasedCTMRLLoss,
    RepresentationLoss,
    TransitionPredictors,
)
from ctmrl_torchrl.objectives.stacked import StackedLoss

__all__ = [
    "BRACSACLoss",
    "CQVAELoss",
    "CTMRLLoss",
    "ContextEncoding",
    "Encoded",
    "MetaLoss",
    "MetricLoss",
    "NoRepresentationLoss",
    "ParameterGroup",
    "ReleasedCTMRLLoss",
    "RepresentationLoss",
    "StackedLoss",
    "TransitionPredictors",
    "make_iql_loss",
]
