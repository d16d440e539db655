"""Checkpoints: one file of tensors and plain values with its checksum, written whole, loaded without code."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ctmrl_torchrl import storage

FORMAT_VERSION = 2
# The file is a zip archive, as torch.save writes it. Its comment, at the end, holds the checksum of the rest.
_TITLE = b"ctmrl checkpoint, sha256 "
_COMMENT = len(_TITLE) + 64
_END_RECORD = b"PK\x05\x06"
_END_SIZE = 22
_CHUNK = 1 << 20


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
        with storage.atomic_write(path) as temporary:
            try:
                torch.save(
                    {"format_version": FORMAT_VERSION, "identity": identity, "state": state}, temporary
                )
            except RuntimeError as error:  # torch's zip writer does not say that the disk is full
                storage.require_space(temporary, state_bytes(state))
                raise storage.StorageError(
                    f"{path} could not be written ({str(error).splitlines()[0]})"
                ) from error
            with temporary.open("r+b") as file:
                _sign(file)


def state_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists, and a little for what is around them."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size() + 256
    if isinstance(state, dict):
        return sum(state_bytes(value) for value in state.values()) + 64
    if isinstance(state, (list, tuple)):
        return sum(state_bytes(value) for value in state) + 64
    return 64


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
        with path.open("rb") as file:
            signed = _is_signed(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler may raise anything on bytes that are no checkpoint
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is not a readable checkpoint ({reason}); the file is left as it is. Start again without "
            "resume=, or name another checkpoint."
        ) from error
    parts = {"format_version", "identity", "state"}
    if not isinstance(content, dict) or set(content) != parts or content["format_version"] != FORMAT_VERSION:
        raise CheckpointError(f"{path} is not a checkpoint of format version {FORMAT_VERSION}.")
    if not signed:
        raise CheckpointError(f"{path} is not a readable checkpoint (it has no checksum); name another one.")
    if not isinstance(content["identity"], dict) or not isinstance(content["state"], dict):
        raise CheckpointError(f"{path} is not a checkpoint: its identity and state are no dictionaries.")
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


def _sign(file: BinaryIO) -> None:
    """Give the archive a comment that holds the checksum of everything before it."""
    end = file.seek(-_END_SIZE, os.SEEK_END)
    if file.read(4) != _END_RECORD:
        raise RuntimeError("torch.save has written another format than a plain zip archive.")
    file.seek(end + _END_SIZE - 2)
    file.write(_COMMENT.to_bytes(2, "little"))
    digest = _digest(file, end + _END_SIZE)
    file.seek(end + _END_SIZE)
    file.write(_TITLE + digest.encode())


def _is_signed(file: BinaryIO) -> bool:
    """Whether the file ends with a checksum; an error if that is not the checksum of what is before it."""
    size = file.seek(0, os.SEEK_END)
    if size < _COMMENT:
        return False
    file.seek(size - _COMMENT)
    comment = file.read()
    if not comment.startswith(_TITLE):
        return False
    if comment[len(_TITLE) :] != _digest(file, size - _COMMENT).encode():
        raise ValueError("its content is not what was written: the checksum differs")
    return True


def _digest(file: BinaryIO, size: int) -> str:
    file.seek(0)
    digest = hashlib.sha256()
    while size > 0:
        chunk = file.read(min(_CHUNK, size))
        if not chunk:
            break
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest()
