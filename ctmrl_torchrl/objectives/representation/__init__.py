"""Representation losses, which train the context encoder."""

from __future__ import annotations

from ctmrl_torchrl.objectives.representation.base import NoRepresentationLoss, RepresentationLoss
from ctmrl_torchrl.objectives.representation.club import club_bound, posterior_error
from ctmrl_torchrl.objectives.representation.cqvae import CQVAELoss
from ctmrl_torchrl.objectives.representation.metric import MetricLoss, metric_loss
from ctmrl_torchrl.objectives.representation.prediction import PredictionKeys, TransitionPredictors
from ctmrl_torchrl.objectives.representation.released import ReleasedCTMRLLoss
from ctmrl_torchrl.objectives.representation.released_terms import (
    bilinear_contrastive,
    code_contrast,
    squared_distance,
)
from ctmrl_torchrl.objectives.representation.terms import (
    code_classification,
    contrast_within_codes,
    hard_contrastive,
    prediction_error,
    prediction_norm,
)

__all__ = [
    "CQVAELoss",
    "MetricLoss",
    "NoRepresentationLoss",
    "PredictionKeys",
    "ReleasedCTMRLLoss",
    "RepresentationLoss",
    "TransitionPredictors",
    "bilinear_contrastive",
    "club_bound",
    "code_classification",
    "code_contrast",
    "contrast_within_codes",
    "posterior_error",
    "hard_contrastive",
    "metric_loss",
    "prediction_error",
    "prediction_norm",
    "squared_distance",
]
