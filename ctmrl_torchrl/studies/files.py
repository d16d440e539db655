"""Writes files atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctmrl_torchrl import storage

__all__ = ["read_json", "write_json", "write_text"]


def write_text(file: str | Path, text: str) -> Path:
    """Write a text file atomically; its folder is created if missing.

    Links are followed and kept.

    Raises:
        StorageError: if the path cannot be used, or the disk is full.
    """
    file = storage.expanded(file)
    storage.resolved(file).parent.mkdir(parents=True, exist_ok=True)
    storage.atomic_write_text(file, text)
    return file


def write_json(file: str | Path, value: Any, indent: int | None = 1) -> Path:
    """Write plain values as JSON; NaN is not allowed."""
    return write_text(file, json.dumps(value, indent=indent, allow_nan=False) + "\n")


def read_json(file: str | Path) -> Mapping[str, Any] | None:
    """The contents of a JSON file; ``None`` if it is missing or incomplete."""
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
