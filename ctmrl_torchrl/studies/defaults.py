"""The default functions for resolving, preparing and executing a run; a study can use others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

__all__ = ["check_run", "execute_run", "prepare_data", "resolve_run"]


def resolve_run(overrides: Sequence[str]) -> Mapping[str, Any]:
    """The resolved and validated configuration of a run, as nested plain values.

    Raises:
        ConfigError: for a value that is not allowed, before any data are collected.

    Examples:
        >>> resolve_run(["preset=smoke", "seed=3"])["seed"]
        3
    """
    from ctmrl_torchrl.training.compose import compose_config
    from ctmrl_torchrl.training.validate import check_protocol_data, validate_config

    config = compose_config(overrides)
    validate_config(config)
    check_protocol_data(config)
    return asdict(config)


def check_run(overrides: Sequence[str]) -> None:
    """Check that this machine can execute a run: its device, memory and folders.

    Raises:
        ConfigError: naming the field. DatasetError: if a given dataset is not there.

    Examples:
        >>> check_run(["preset=smoke", "sizes.policy_hidden=[10000000]"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.rules.ConfigError: ...
    """
    from ctmrl_torchrl.training.compose import compose_config
    from ctmrl_torchrl.training.experiment import check_machine

    check_machine(compose_config(overrides))


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
