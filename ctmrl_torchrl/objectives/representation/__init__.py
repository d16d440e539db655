"""Representation losses: what the context encoder learns from."""

from __future__ import annotations

from ctmrl_torchrl.objectives.representation.base import RepresentationConfig
from ctmrl_torchrl.objectives.representation.cqvae import CQVAELoss
from ctmrl_torchrl.objectives.representation.cqvae_config import CQVAEConfig
from ctmrl_torchrl.objectives.representation.terms import (
    code_classification,
    hard_contrastive,
    prediction_error,
)

__all__ = [
    "CQVAEConfig",
    "CQVAELoss",
    "RepresentationConfig",
    "code_classification",
    "hard_contrastive",
    "prediction_error",
]
