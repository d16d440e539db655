"""Checkpoints: one file of tensors and plain values with a checksum, written atomically, loaded without code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctmrl_torchrl import storage
from ctmrl_torchrl.sealed import SealError, load_sealed, save_sealed, unreadable_entry

FORMAT_VERSION = 2
_PARTS = {"format_version", "identity", "state"}


class CheckpointError(ValueError):
    """A checkpoint cannot be used: it is unreadable, damaged, or belongs to another experiment."""


def save_checkpoint(path: Path, state: dict[str, Any], identity: dict[str, Any]) -> None:
    """Write a checkpoint atomically and sync it to disk.

    Args:
        path (Path): the file.
        state (dict): tensors, numbers, strings, lists and dicts.
        identity (dict): values that a resuming run must share, e.g. the environment.

    Raises:
        StorageError: if the disk is full. The earlier file is kept.
    """
    with storage.disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    save_sealed(path, {"format_version": FORMAT_VERSION, "identity": identity, "state": state})


def require_restorable(parts: dict[str, Any]) -> None:
    """Require that a checkpoint can restore the states of a method's parts.

    Raises:
        CheckpointError: with the first entry that is neither a tensor nor a plain value.

    Examples:
        >>> require_restorable({"store": {"next": 3, "transitions": [0.5, None]}})
    """
    entry = unreadable_entry(parts, "parts")
    if entry is not None:
        raise CheckpointError(
            f"{entry}, which a checkpoint cannot restore; let the part's state_dict return tensors and plain "
            "values: numbers, strings, lists and dictionaries."
        )


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint file that ``resume=PATH`` refers to: the file itself, or the last one in a run folder.

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
    except OSError as error:  # too long, no permission, or not a valid path
        raise CheckpointError(f"resume={given} cannot be read: {error.strerror or error}.") from error
    looked_for = ", ".join(str(candidate) for candidate in candidates)
    raise CheckpointError(f"resume={given} does not lead to a checkpoint; looked for {looked_for}.")


def load_checkpoint(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint's state after checking that it belongs to the experiment with this ``identity``.

    Raises:
        CheckpointError: if the file cannot be read, fails its checksum, or was written by a run with another
            identity.
    """
    try:
        content = load_sealed(path)
    except SealError as error:
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({error}); the file was not changed. Start again without "
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
                f"{path} does not record the {name} it was written with; resume from another checkpoint."
            )
        found = content["identity"][name]
        if found != expected:
            raise CheckpointError(
                f"{path} was written with {name}={found!r}, but this run has {name}={expected!r}; "
                f"give this run the same {name} or resume from another checkpoint."
            )
    return content["state"]
