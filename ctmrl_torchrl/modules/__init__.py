"""Building blocks: context encoder, codebook, predictors, actor and critics, all as TensorDict modules."""

from __future__ import annotations

from ctmrl_torchrl.modules.behaviour_posterior import BoundedGaussian, make_behaviour_posterior
from ctmrl_torchrl.modules.codebook import Codebook, code_distances, match_codes, moving_update
from ctmrl_torchrl.modules.context_encoder import ContextEncoder, make_context_encoder
from ctmrl_torchrl.modules.encoder_configs import (
    ENCODERS,
    ContextEncoderConfig,
    EncoderConfig,
    TaskParametersConfig,
    TaskTableConfig,
)
from ctmrl_torchrl.modules.policies import SquashedNormal, make_actor, make_qvalue, make_value
from ctmrl_torchrl.modules.pooling import AttentionPool, NoisySquash, UnitSphere
from ctmrl_torchrl.modules.predictors import make_next_observation_predictor, make_reward_predictor
from ctmrl_torchrl.modules.standardise import Standardise, StandardisedMLP, Unstandardise
from ctmrl_torchrl.modules.task_encoders import TaskParameters
from ctmrl_torchrl.modules.task_table import TaskTable

__all__ = [
    "ENCODERS",
    "AttentionPool",
    "BoundedGaussian",
    "Codebook",
    "ContextEncoder",
    "ContextEncoderConfig",
    "EncoderConfig",
    "NoisySquash",
    "SquashedNormal",
    "Standardise",
    "StandardisedMLP",
    "TaskParameters",
    "TaskParametersConfig",
    "TaskTable",
    "TaskTableConfig",
    "Unstandardise",
    "UnitSphere",
    "make_actor",
    "make_behaviour_posterior",
    "make_context_encoder",
    "make_next_observation_predictor",
    "make_qvalue",
    "make_reward_predictor",
    "make_value",
    "code_distances",
    "match_codes",
    "moving_update",
]
