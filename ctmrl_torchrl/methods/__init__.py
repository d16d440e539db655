"""Methods: one module per published method, and the base class of their parts."""

from __future__ import annotations

from ctmrl_torchrl.methods.anole import ANOLEConfig
from ctmrl_torchrl.methods.base import (
    PARTS,
    REPRESENTATIONS,
    Facts,
    NoRepresentationConfig,
    PartConfig,
    RepresentationConfig,
)
from ctmrl_torchrl.methods.codebook import CodebookConfig
from ctmrl_torchrl.methods.codebook_schedule import CodebookSchedule, cosine_kmeans
from ctmrl_torchrl.methods.corro import CORROConfig
from ctmrl_torchrl.methods.csro import CSROConfig
from ctmrl_torchrl.methods.ctmrl import CQVAEConfig
from ctmrl_torchrl.methods.ctmrl_released import ReleasedConfig
from ctmrl_torchrl.methods.er_trl import ERTRLConfig
from ctmrl_torchrl.methods.focal import FOCALConfig
from ctmrl_torchrl.methods.gentle import GENTLEConfig
from ctmrl_torchrl.methods.idaq import IDAQConfig, OutcomeModels, OutcomeModelsConfig
from ctmrl_torchrl.methods.parts import Drawing, Part, Parts, Setting
from ctmrl_torchrl.methods.unicorn import UNICORNConfig, UNICORNSupConfig

__all__ = [
    "PARTS",
    "REPRESENTATIONS",
    "ANOLEConfig",
    "CORROConfig",
    "CQVAEConfig",
    "CSROConfig",
    "CodebookConfig",
    "CodebookSchedule",
    "Drawing",
    "ERTRLConfig",
    "FOCALConfig",
    "Facts",
    "GENTLEConfig",
    "IDAQConfig",
    "NoRepresentationConfig",
    "OutcomeModels",
    "OutcomeModelsConfig",
    "Part",
    "PartConfig",
    "Parts",
    "ReleasedConfig",
    "RepresentationConfig",
    "Setting",
    "UNICORNConfig",
    "UNICORNSupConfig",
    "cosine_kmeans",
]
