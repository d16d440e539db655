"""How the package itself resolves, prepares and carries out a run; a study can be given other ways."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ctmrl_torchrl.studies.places import config_folder
from ctmrl_torchrl.training.config import ExperimentConfig, register_configs

__all__ = ["configuration_of", "execute_run", "prepare_data", "resolve_run"]


def configuration_of(overrides: Sequence[str]) -> ExperimentConfig:
    """The checked types of a run's configuration, composed by Hydra.

    Examples:
        >>> configuration_of(["preset=smoke", "seed=3"]).seed
        3
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    register_configs()
    hydra = GlobalHydra.instance()
    outer = hydra.hydra
    hydra.clear()
    try:
        with initialize_config_dir(version_base="1.3", config_dir=str(config_folder())):
            return OmegaConf.to_object(compose("config", overrides=list(overrides)))
    finally:
        hydra.clear()
        if outer is not None:
            hydra.initialize(outer)


def resolve_run(overrides: Sequence[str]) -> Mapping[str, Any]:
    """The resolved configuration of a run, as nested plain values."""
    return asdict(configuration_of(overrides))


def prepare_data(overrides: Sequence[str]) -> str:
    """Make the dataset of a run where it is missing; return a fingerprint of its content."""
    from ctmrl_torchrl.training import build

    dataset = build.obtain_dataset(configuration_of(overrides))
    checksums = json.dumps(dataset.manifest.checksums, sort_keys=True)
    return hashlib.sha256(checksums.encode()).hexdigest()[:12]


def execute_run(overrides: list[str]) -> Any:
    """Carry out a run; see ``ctmrl_torchrl.run``."""
    import ctmrl_torchrl

    return ctmrl_torchrl.run(overrides)
