"""Locations of the package's configurations, installed or in a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.storage import expanded

__all__ = ["config_folder", "study_file", "study_names"]


def study_file(name: str | Path, folders: Iterable[Path] = ()) -> Path | None:
    """The YAML file of a study: a given file, or one in the folders of studies."""
    if Path(name).suffix in (".yaml", ".yml"):
        places = [expanded(name)]
    else:
        places = [Path(folder) / f"{name}.yaml" for folder in (*folders, config_folder() / "study")]
    try:
        return next((place for place in places if place.is_file()), None)
    except OSError:  # e.g. the name is too long
        return None


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
