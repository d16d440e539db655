"""Locations of the package's files, without heavy imports."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def config_folder() -> Path:
    """The folder of the YAML files: part of the installed package, or ``configs/`` of a checkout.

    Examples:
        >>> (config_folder() / "config.yaml").is_file()
        True
    """
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"
