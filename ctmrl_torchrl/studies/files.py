"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctmrl_torchrl import storage

__all__ = ["read_json", "write_json", "write_text"]


def write_text(file: str | Path, text: str) -> Path:
    """Write a text file whole or not at all; its folder is made where it is missing.

    A link is followed and stays a link.

    Raises:
        StorageError: if the place cannot be used, or the disk is full.
    """
    file = storage.expanded(file)
    storage.resolved(file).parent.mkdir(parents=True, exist_ok=True)
    storage.atomic_write_text(file, text)
    return file


def write_json(file: str | Path, value: Any, indent: int | None = 1) -> Path:
    """Write plain values as JSON; NaN is refused."""
    return write_text(file, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(file: str | Path) -> Mapping[str, Any] | None:
    """What a JSON file holds; ``None`` if there is no such file or it is not whole."""
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
