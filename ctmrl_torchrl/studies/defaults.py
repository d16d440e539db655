"""The default functions for resolving, preparing and executing a run; a study can use others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

__all__ = ["execute_run", "prepare_data", "resolve_run"]


def resolve_run(overrides: Sequence[str]) -> Mapping[str, Any]:
    """The resolved configuration of a run, as nested plain values.

    Examples:
        >>> resolve_run(["preset=smoke", "seed=3"])["seed"]
        3
    """
    from ctmrl_torchrl.training.compose import compose_config

    return asdict(compose_config(overrides))


def prepare_data(overrides: Sequence[str]) -> str:
    """Collect the dataset of a run if missing, and return a fingerprint of its content."""
    from ctmrl_torchrl.training.build import obtain_dataset
    from ctmrl_torchrl.training.compose import compose_config
    from ctmrl_torchrl.training.identity import fingerprint

    return fingerprint(obtain_dataset(compose_config(overrides)))


def execute_run(overrides: list[str]) -> Any:
    """Execute a run; see ``ctmrl_torchrl.run``."""
    import ctmrl_torchrl

    return ctmrl_torchrl.run(overrides)
