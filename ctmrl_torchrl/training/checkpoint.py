"""Checkpoints: one file of tensors and plain values with its checksum, written whole, loaded without code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctmrl_torchrl import storage
from ctmrl_torchrl.sealed import SealError, load_sealed, save_sealed

FORMAT_VERSION = 2
_PARTS = {"format_version", "identity", "state"}


class CheckpointError(ValueError):
    """A checkpoint cannot be used: unreadable, damaged, or of another experiment."""


def save_checkpoint(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write a checkpoint: whole and synced, or not at all.

    Args:
        path (Path): the file.
        state (dict): tensors, numbers, strings, lists and dicts.
        identity (dict): what a resuming run must agree with, e.g. the environment.

    Raises:
        StorageError: if the disk is full; the earlier file stays.
    """
    with storage.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_sealed(path, {"format_version": FORMAT_VERSION, "identity": identity, "state": state})


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that ``resume=PATH`` means: the file itself, or the last one of a run folder.

    Raises:
        CheckpointError: if there is none.
    """
    given = path
    try:
        path = storage.expanded(path)
        candidates = (path, path / "checkpoints" / "last.pt", path / "last.pt")
        for candidate in candidates:
            if candidate.is_file():
                return candidate
    except OSError as error:  # too long, no permission, or no path at all
        raise CheckpointError(f"resume={given} cannot be looked up: {error.strerror or error}.") from error
    looked_for = ", ".join(str(candidate) for candidate in candidates)
    raise CheckpointError(f"resume={given} names no checkpoint; looked for {looked_for}.")


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's state, if it belongs to the experiment described by ``identity``.

    Raises:
        CheckpointError: if the file cannot be read, is not what was written, or was written by a run with
            another identity.
    """
    try:
        content = load_sealed(path)
    except SealError as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}); the file is left as it is. Start again without "
            "resume=, or name another checkpoint."
        ) from error
    if (
        not isinstance(content, dict)
        or set(content) != _PARTS
        or content["format_version"] != FORMAT_VERSION
        or not isinstance(content["identity"], dict)
        or not isinstance(content["state"], dict)
    ):
        raise CheckpointError(f"{path} is not a checkpoint of format version {FORMAT_VERSION}.")
    for name, expected in identity.items():
        if name not in content["identity"]:
            raise CheckpointError(
                f"{path} does not say with which {name} it was written; resume from another checkpoint."
            )
        found = content["identity"][name]
        if found != expected:
            raise CheckpointError(
                f"{path} was written with {name}={found!r}, but this run has {name}={expected!r}; "
                f"give this run the same {name} or resume from another checkpoint."
            )
    return content["state"]
