"""Where the package's configurations lie, installed or in a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

__all__ = ["config_folder", "study_file", "study_names"]


def config_folder() -> Path:
    """The folder of the Hydra configurations: part of the installed package, or of the checkout.

    Examples:
        >>> (config_folder() / "config.yaml").is_file()
        True
    """
    package = Path(__file__).parents[1]
    packaged = package / "configs"
    return packaged if (packaged / "config.yaml").is_file() else package.parent / "configs"


def study_file(name: str | Path, folders: Iterable[Path] = ()) -> Path | None:
    """The YAML file of a study: a file that was named, or one of the folders of studies."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name) if Path(name).is_file() else None
    places = (Path(folder) / f"{name}.yaml" for folder in (*folders, config_folder() / "study"))
    return next((place for place in places if place.is_file()), None)


def study_names(folders: Iterable[Path] = ()) -> list[str]:
    """The names of all studies that can be found.

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
