"""Locations of the package's configurations, installed or in a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ctmrl_torchrl.places import config_folder

__all__ = ["config_folder", "study_file", "study_names"]


def study_file(name: str | Path, folders: Iterable[Path] = ()) -> Path | None:
    """The YAML file of a study: a given file, or one in the folders of studies."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name) if Path(name).is_file() else None
    places = (Path(folder) / f"{name}.yaml" for folder in (*folders, config_folder() / "study"))
    return next((place for place in places if place.is_file()), None)


def study_names(folders: Iterable[Path] = ()) -> list[str]:
    """The names of all available studies.

    Examples:
        >>> "quick" in study_names()
        True
    """
    return sorted(
        {
            file.stem
            for folder in (*folders, config_folder() / "study")
            for file in Path(folder).glob("*.yaml")
        }
    )
