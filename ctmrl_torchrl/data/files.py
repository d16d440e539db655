"""A dataset's folder: written all or nothing, read memory-mapped after its files were checked."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import torch
from tensordict import MemoryMappedTensor, TensorDict, TensorDictBase

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.manifest import (
    MANIFEST_FILE,
    TRANSITIONS_FOLDER,
    DatasetManifest,
    folder_checksums,
    parse_dtype,
)

_MEND = "Delete the folder and make the dataset again."


def write_folder(
    path: Path, transitions: TensorDictBase, manifest: DatasetManifest, *, overwrite: bool
) -> Path:
    """Write ``path/transitions/`` and ``path/manifest.json`` beside ``path``, then rename.

    Raises:
        DatasetError: if ``path`` exists and may not be replaced.
    """
    _check_target(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    replaced = path.with_name(f"{path.name}.old-{os.getpid()}")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # a copy even if the tensors are memory-mapped already: the files are to belong to this folder
        transitions.memmap(temporary / TRANSITIONS_FOLDER, copy_existing=True)
        checksums = folder_checksums(temporary / TRANSITIONS_FOLDER)
        (temporary / MANIFEST_FILE).write_text(
            manifest.replace(checksums=checksums).to_json(), encoding="utf-8"
        )
        if path.exists():
            os.replace(path, replaced)
        try:
            os.replace(temporary, path)
        except BaseException:
            if replaced.exists():
                os.replace(replaced, path)
            raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(replaced, ignore_errors=True)
    return path


def read_folder(path: Path, *, check_checksums: bool) -> tuple[TensorDict, DatasetManifest]:
    """Check the files of a dataset and map them into memory.

    Raises:
        DatasetError: naming the file that is missing, truncated or changed.
    """
    if not path.is_dir():
        raise DatasetError(
            f"{path}: no dataset here (the folder does not exist); collect or import one first"
        )
    manifest_file = path / MANIFEST_FILE
    if not manifest_file.is_file():
        raise DatasetError(
            f"{manifest_file}: missing, so {path} is not a dataset of this library. Nothing was changed; "
            "name the folder of a dataset, which holds that file and transitions/."
        )
    try:
        text = manifest_file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{manifest_file}: not a text file ({error}). {_MEND}") from error
    manifest = DatasetManifest.from_json(text, source=str(manifest_file))
    count = manifest.counts.get("transitions")
    if not isinstance(count, int) or count < 1 or not manifest.keys:
        raise DatasetError(f"{manifest_file}: counts.transitions or keys is missing or empty. {_MEND}")
    folder = path / TRANSITIONS_FOLDER
    if not (folder / "meta.json").is_file():
        raise DatasetError(f"{folder / 'meta.json'}: missing. {_MEND}")
    tensors = {
        tuple(name.split(".")): _map_tensor(folder, name, description, count)
        for name, description in manifest.keys.items()
    }
    if check_checksums:
        _compare_checksums(folder, manifest)
    transitions = TensorDict({}, [count])
    for key, tensor in tensors.items():
        transitions.set(key, tensor)
    return transitions, manifest


def _map_tensor(folder: Path, name: str, description: object, count: int) -> MemoryMappedTensor:
    parts = name.split(".")
    if any(not part.isidentifier() for part in parts):
        raise DatasetError(f"{folder.parent / MANIFEST_FILE}: keys: {name!r} is not a key name. {_MEND}")
    tail, dtype_name = _shape_and_dtype(folder, name, description)
    dtype = parse_dtype(dtype_name)
    file = folder.joinpath(*parts[:-1], f"{parts[-1]}.memmap")
    if not file.is_file():
        raise DatasetError(f"{file}: missing. {_MEND}")
    shape = torch.Size([count, *tail])
    expected = shape.numel() * dtype.itemsize
    if file.stat().st_size != expected:
        raise DatasetError(
            f"{file}: has {file.stat().st_size} bytes, expected {expected} for {dtype} {list(shape)}; "
            f"the file was cut off or belongs to another dataset. {_MEND}"
        )
    return MemoryMappedTensor.from_filename(file, dtype=dtype, shape=shape)


def _shape_and_dtype(folder: Path, name: str, description: object) -> tuple[list[int], str]:
    with contextlib.suppress(TypeError, ValueError):
        tail, dtype = description
        if all(isinstance(size, int) and size > 0 for size in tail):
            return list(tail), dtype
    raise DatasetError(
        f"{folder.parent / MANIFEST_FILE}: keys.{name} is {description!r}, expected [[sizes], dtype]. {_MEND}"
    )


def _compare_checksums(folder: Path, manifest: DatasetManifest) -> None:
    found = folder_checksums(folder)
    if not manifest.checksums:
        raise DatasetError(f"{folder.parent / MANIFEST_FILE}: has no checksums to verify against. {_MEND}")
    for file in sorted(set(found) | set(manifest.checksums)):
        if found.get(file) != manifest.checksums.get(file):
            problem = (
                "missing"
                if file not in found
                else "not part of the dataset"
                if file not in manifest.checksums
                else "its content is not what was saved (sha256 differs)"
            )
            raise DatasetError(f"{folder / file}: {problem}. {_MEND}")


def _check_target(path: Path, overwrite: bool) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise DatasetError(f"{path}: exists and is not a folder; choose another path")
    if not overwrite:
        raise DatasetError(
            f"{path}: exists already; pass overwrite=True to replace it, or choose another path"
        )
    if not (path / MANIFEST_FILE).is_file() and any(path.iterdir()):
        raise DatasetError(
            f"{path}: holds files but no {MANIFEST_FILE}, so it is not a dataset and is not replaced; "
            "choose another path"
        )
