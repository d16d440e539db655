"""Reads a dataset's folder memory-mapped after checking its files."""

from __future__ import annotations

import hashlib
import math
import mmap
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from tensordict import MemoryMappedTensor, TensorDict
from torch import Tensor

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.keys import key_parts, parse_dtype
from ctmrl_torchrl.data.manifest import MANIFEST_FILE, META_FILE, TENSOR_SUFFIX, DatasetManifest

T = TypeVar("T")

_HINT = "Restore that file from a copy, or create the dataset again."
#: the tensors can be read without that file, because the manifest describes them too
_DESCRIPTION_HINT = (
    'Restore it from a copy. The tensors do not need it: verify="quick" loads them, and saving them to '
    "another folder writes it again."
)
#: number of retries if another process replaces the dataset during reading
_ATTEMPTS = 3
# MAP_NORESERVE, which Python names from 3.13 on
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class CopyOnWriteTensor(MemoryMappedTensor):
    """A memory-mapped tensor whose in-place changes stay in memory; a pickle names the file and maps it again."""

    @classmethod
    def from_filename(
        cls, filename: Path | str, dtype: torch.dtype, shape: torch.Size, index: Any = None
    ) -> MemoryMappedTensor:
        """Map a file; see the parent, which maps it shared where the file may be written."""
        size = torch.Size(shape)
        tensor = _copy_on_write(Path(filename), dtype, size.numel()).view(size)
        mapped: Any = cls(tensor if index is None else tensor[index])
        mapped.filename, mapped._handler = filename, None
        mapped.index, mapped.parent_shape = index, size
        return mapped

    def _index_wrap(self, *args: Any, **options: Any) -> Any:
        """A view is of this class too, so that its pickle is mapped like this."""
        view = super()._index_wrap(*args, **options)
        if isinstance(view, MemoryMappedTensor):
            view.__class__ = type(self)
        return view


def _copy_on_write(file: Path, dtype: torch.dtype, numel: int) -> Tensor:
    """A tensor over a file that writing never changes. It reserves no memory, so the file may be larger."""
    if not numel:
        return torch.empty(0, dtype=dtype)
    with open(file, "rb") as opened:
        if hasattr(mmap, "MAP_PRIVATE"):
            flags, protection = mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            mapped = mmap.mmap(opened.fileno(), 0, flags=flags, prot=protection)
        else:
            mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
    return torch.frombuffer(mapped, dtype=dtype, count=numel)


def read_folder(path: Path, *, check_checksums: bool) -> tuple[TensorDict, DatasetManifest]:
    """Check the files of a dataset and memory-map them copy-on-write.

    Other files are ignored.

    Raises:
        DatasetError: with the file that is missing, truncated or changed.
    """
    if not path.is_dir():
        reason = "is a file, not a folder" if path.exists() else "does not exist"
        raise DatasetError(f"{path} {reason}; collect or import a dataset first")
    manifest = read_manifest(path)
    for _ in range(_ATTEMPTS):
        try:
            return _map_tensors(path, manifest, check_checksums), manifest
        except DatasetError:
            now = read_manifest(path)
            if now.folder == manifest.folder:
                raise
            manifest = now  # another process has replaced the dataset
    raise DatasetError(f"{path} is being replaced repeatedly by other processes; try again later")


def read_manifest(path: Path) -> DatasetManifest:
    """Read the manifest of the dataset in a folder.

    Raises:
        DatasetError: with the file and the problem.
    """
    file = path / MANIFEST_FILE
    try:
        there = file.is_file()
    except OSError as error:  # no permission, or the name is too long
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    if not there:
        raise DatasetError(
            f"{file} is missing, so {path} is not a dataset of this library; give the folder of a dataset, which "
            "contains that file and transitions/."
        )
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors add a mark at the beginning
    except UnicodeDecodeError as error:
        raise DatasetError(f"{file} is not a text file ({error}). {_HINT}") from error
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    return DatasetManifest.from_json(text, source=str(file))


def _map_tensors(path: Path, manifest: DatasetManifest, check_checksums: bool) -> TensorDict:
    count = manifest.counts.get("transitions", 0)
    if count < 1 or not manifest.keys:
        raise DatasetError(f"{path / MANIFEST_FILE}: counts.transitions or keys is missing or empty. {_HINT}")
    folder, leaves, nodes = path / manifest.folder, set(), set()
    transitions = TensorDict({}, [count])
    for name, (sizes, dtype) in manifest.keys.items():
        parts = _in_manifest(path, key_parts, name)
        beginnings = {parts[:length] for length in range(1, len(parts))}
        if parts in leaves | nodes or beginnings & leaves:
            raise DatasetError(f"{path / MANIFEST_FILE}: keys: {name!r} conflicts with another key. {_HINT}")
        leaves.add(parts)
        nodes |= beginnings
        file = folder.joinpath(*parts[:-1], f"{parts[-1]}{TENSOR_SUFFIX}")
        transitions.set(parts, _map_tensor(file, [count, *sizes], _in_manifest(path, parse_dtype, dtype)))
    if check_checksums:
        _compare_checksums(path, manifest)
    return transitions


def _in_manifest(path: Path, read: Callable[[str], T], value: str) -> T:
    try:
        return read(value)
    except DatasetError as error:
        raise DatasetError(
            f"{str(error).replace('manifest', str(path / MANIFEST_FILE), 1)}. {_HINT}"
        ) from None


def _map_tensor(file: Path, shape: list[int], dtype: torch.dtype) -> Tensor:
    try:
        size = file.stat().st_size if file.is_file() else None
    except OSError as error:
        raise DatasetError(f"{file} cannot be read ({error.strerror})") from error
    if size is None:
        raise DatasetError(f"{file} is missing. {_HINT}")
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise DatasetError(
            f"{file} has {size} bytes, expected {expected} for {dtype} {shape}; "
            f"the file is truncated or belongs to another dataset. {_HINT}"
        )
    try:
        return CopyOnWriteTensor.from_filename(file, dtype=dtype, shape=torch.Size(shape))
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(f"{file} cannot be opened ({str(error).splitlines()[0]})") from error


def _compare_checksums(path: Path, manifest: DatasetManifest) -> None:
    file, expected = path / MANIFEST_FILE, dict(manifest.checksums)
    if not expected:
        raise DatasetError(f"{file} contains no checksums for the verification. {_HINT}")
    digest = expected.pop(MANIFEST_FILE, None)  # earlier versions recorded none
    if digest not in (None, manifest.digest()):
        raise DatasetError(
            f"{file} was changed after it was saved (sha256 differs). Restore it from a copy; or, if you "
            'changed it on purpose, load with verify="quick" and save the dataset again.'
        )
    tensors = {"/".join(name.split(".")) + TENSOR_SUFFIX for name in manifest.keys}
    nodes = {str(parent) for name in tensors for parent in Path(name).parents}
    files = tensors | {str(Path(node, META_FILE)) for node in nodes}
    if set(expected) != files:
        differing = ", ".join(sorted(set(expected) ^ files))
        raise DatasetError(f"{file}: checksums and keys list different files: {differing}. {_HINT}")
    for name in sorted(files):
        member = path / manifest.folder / name
        hint = _DESCRIPTION_HINT if member.name == META_FILE else _HINT
        if not member.is_file():
            raise DatasetError(f"{member} is missing. {hint}")
        with member.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != expected[name]:
            raise DatasetError(f"{member} was changed after it was saved (sha256 differs). {hint}")
