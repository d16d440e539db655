"""Checkpoints: one file of tensors and plain values, written atomically, loaded without unpickling code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

FORMAT_VERSION = 1


class CheckpointError(ValueError):
    """A checkpoint cannot be used: unreadable, or of another experiment."""


def save_checkpoint(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then rename it.

    Args:
        path (Path): the file.
        state (dict): tensors, numbers, strings, lists and dicts.
        identity (dict): what a resuming run must agree with, e.g. the environment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        torch.save({"format_version": FORMAT_VERSION, "identity": identity, "state": state}, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that ``resume=PATH`` means: the file itself, or the last one of a run folder."""
    path = Path(path)
    candidates = (path, path / "checkpoints" / "last.pt", path / "last.pt")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    looked_for = ", ".join(str(candidate) for candidate in candidates)
    raise CheckpointError(f"resume={path} names no checkpoint; looked for {looked_for}.")


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's state, if it belongs to the experiment described by ``identity``.

    Raises:
        CheckpointError: if the file cannot be read, or was written by a run with another identity.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise anything on bytes that are no checkpoint
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}); the file is left as it is. Start again without "
            "resume=, or name another checkpoint."
        ) from error
    parts = {"format_version", "identity", "state"}
    if not isinstance(content, dict) or set(content) != parts or content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of format version {FORMAT_VERSION}.")
    for name, expected in identity.items():
        found = content["identity"].get(name, expected)  # an older checkpoint may say less of itself
        if found != expected:
            raise CheckpointError(
                f"{path} was written with {name}={found!r}, but this run has {name}={expected!r}; "
                f"give this run the same {name} or resume from another checkpoint."
            )
    return content["state"]
