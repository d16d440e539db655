"""Files of tensors and plain values with a checksum, written atomically and loaded without executing code."""

from __future__ import annotations

import copy
import hashlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ctmrl_torchrl import storage

# The file is a zip archive, as torch.save writes it. Its comment, at the end, holds the checksum of the rest.
_TITLE = b"ctmrl checkpoint, sha256 "
_COMMENT = len(_TITLE) + 64
_END_RECORD = b"PK\x05\x06"
_END_SIZE = 22
_CHUNK = 1 << 20
#: types of single values that are loaded without executing code
_READABLE = (
    *(torch.Tensor, torch.nn.Parameter, torch.Size, torch.dtype, torch.device),
    *(type(None), bool, int, float, complex, str, bytes),
)


class SealError(ValueError):
    """A file cannot be read, has no checksum, or is not what was written."""


def save_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write a file atomically and sync it to disk.

    Args:
        path: output file; its folder must exist. content: tensors, numbers, strings, lists and dictionaries.

    Raises:
        StorageError: if the disk is full; an existing file is kept.
    """
    with storage.atomic_write(path) as temporary:
        try:
            torch.save(_without_the_rest(content), temporary)
        except RuntimeError as error:  # torch's zip writer does not report the reason
            storage.require_space(temporary, tensor_bytes(content))
            reason = str(error).splitlines()[0]
            raise storage.StorageError(
                f"{path} could not be written ({reason}); is the disk at {storage.disk_of(path)} full, or a "
                "limit on the size of files reached?"
            ) from error
        with temporary.open("r+b") as file:
            _seal(file)


def load_sealed(path: Path, device: torch.device | str = "cpu") -> Any:
    """Read a file of :func:`save_sealed`.

    Raises:
        SealError: if the file cannot be read, has no checksum, or is not what was written.

    Examples:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "state.pt"
        >>> save_sealed(file, {"step": 3})
        >>> load_sealed(file)
        {'step': 3}
        >>> _ = file.write_bytes(file.read_bytes()[:-1])
        >>> load_sealed(file)
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.sealed.SealError: it has no checksum at its end, as if it were cut off
    """
    try:
        with path.open("rb") as file:
            _check_seal(file)
            file.seek(0)
            return torch.load(file, map_location=device, weights_only=True)
    except SealError:
        raise
    except Exception as error:  # the unpickler may raise any exception on damaged bytes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise SealError(reason) from error


def unreadable_entry(content: Any, name: str) -> str | None:
    """The first entry that :func:`save_sealed` would write and :func:`load_sealed` could not read, with its type.

    Args:
        content: nested dictionaries and lists. name: of the content.

    Examples:
        >>> unreadable_entry({"step": 3, "best": [torch.zeros(2), {1.5: None}]}, "state") is None
        True
        >>> unreadable_entry({"best": [range(3)]}, "state")
        'state.best[0] is a range'
    """
    if type(content) in (dict, OrderedDict):
        found = (unreadable_entry(value, f"{name}.{key}") for key, value in content.items())
    elif type(content) in (list, tuple, set):
        found = (unreadable_entry(value, f"{name}[{index}]") for index, value in enumerate(content))
    else:
        return None if type(content) in _READABLE else f"{name} is a {type(content).__name__}"
    return next((each for each in found if each is not None), None)


def tensor_bytes(state: Any) -> int:
    """Bytes of all tensors in nested dictionaries and lists, plus a small overhead.

    Examples:
        >>> tensor_bytes([torch.zeros(1000)]) // 1000
        4
    """
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size() + 256
    if isinstance(state, dict):
        return sum(tensor_bytes(value) for value in state.values()) + 64
    if isinstance(state, (list, tuple)):
        return sum(tensor_bytes(value) for value in state) + 64
    return 64


def _without_the_rest(content: Any) -> Any:
    """The content with copies of parts of larger tensors, which ``torch.save`` would write as a whole."""
    if isinstance(content, torch.Tensor):
        part = content.untyped_storage().nbytes() > content.nbytes
        return content.detach().clone() if part else content
    if isinstance(content, dict):
        copied = copy.copy(content)  # with the attributes of a module's state
        copied.update({name: _without_the_rest(value) for name, value in content.items()})
        return copied
    return [_without_the_rest(value) for value in content] if type(content) is list else content


def _seal(file: BinaryIO) -> None:
    """Add a comment to the archive with the checksum of everything before it."""
    end = file.seek(-_END_SIZE, os.SEEK_END)
    if file.read(4) != _END_RECORD:
        raise RuntimeError("torch.save has written another format than a plain zip archive.")
    file.seek(end + _END_SIZE - 2)
    file.write(_COMMENT.to_bytes(2, "little"))
    digest = _digest(file, end + _END_SIZE)
    file.seek(end + _END_SIZE)
    file.write(_TITLE + digest.encode())


def _check_seal(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _COMMENT, 0))
    comment = file.read()
    if size < _COMMENT or not comment.startswith(_TITLE):
        raise SealError("it has no checksum at its end, as if it were cut off")
    if comment[len(_TITLE) :] != _digest(file, size - _COMMENT).encode():
        raise SealError("its content is not what was written: the checksum differs")


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
