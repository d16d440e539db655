"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["read_json", "write_json", "write_text"]


def write_text(file: str | Path, text: str, *, sync: bool = True) -> Path:
    """Write a text file whole or not at all; its folder is made where it is missing.

    Args:
        file: to write.
        text: its content.
        sync: wait until it is on the disk, so that it survives a power cut as well.
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return file


def write_json(file: str | Path, value: Any, indent: int | None = 1, *, sync: bool = True) -> Path:
    """Write plain values as JSON; NaN is refused. ``sync`` as for :func:`write_text`."""
    return write_text(file, json.dumps(value, indent=indent, allow_nan=False) + "\n", sync=sync)


def read_json(file: str | Path) -> Mapping[str, Any] | None:
    """What a JSON file holds; ``None`` if there is no such file or it is not whole."""
    try:
        value = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
