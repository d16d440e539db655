"""Writes a dataset's folder atomically and without touching other files.

The manifest contains the name of the tensors' folder, so a dataset is replaced by one rename: new tensors are
written to a separate folder next to the old ones, then the new manifest replaces the old one, and only then are
the files of the old dataset deleted. If the process is killed at any step, one complete dataset remains, and the
next save removes leftovers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl import storage
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.keys import DTYPES
from ctmrl_torchrl.data.layout import ID_KEYS, row_blocks
from ctmrl_torchrl.data.manifest import (
    MANIFEST_FILE,
    META_FILE,
    TENSOR_SUFFIX,
    TRANSITIONS_FOLDER,
    DatasetManifest,
    folder_checksums,
)
from ctmrl_torchrl.data.reading import read_manifest


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Check that a dataset may be written to ``path`` and return the resolved path. Nothing is changed.

    Raises:
        DatasetError: if the path cannot be used, or contains files that must not be replaced.
    """
    try:
        place = storage.resolved(path)
    except storage.StorageError as error:
        raise DatasetError(str(error)) from error
    if not place.exists():
        return place
    if not place.is_dir():
        raise DatasetError(f"{path} exists and is not a folder; choose another path")
    if not overwrite:
        raise DatasetError(
            f"{path} already exists; pass overwrite=True to replace it, or choose another path"
        )
    if not (place / MANIFEST_FILE).is_file():
        if any(not _left_over(each, TRANSITIONS_FOLDER) for each in place.iterdir()):
            raise DatasetError(
                f"{path} contains files but no {MANIFEST_FILE}, so it is not a dataset and is not replaced; "
                "choose another path"
            )
        return place
    try:
        read_manifest(place)
    except DatasetError as error:
        raise DatasetError(
            f"{path} is not replaced, because its {MANIFEST_FILE} cannot be read as that of a dataset ({error}); "
            "choose another path, or move that folder away"
        ) from error
    return place


def write_folder(
    path: str | os.PathLike[str], transitions: TensorDictBase, manifest: DatasetManifest, *, overwrite: bool
) -> Path:
    """Write the tensors and ``manifest.json`` to ``path`` atomically.

    An existing dataset is replaced in place: links to it and other files in its folder are kept.

    Returns:
        ``path``, with ``~`` expanded.

    Raises:
        DatasetError: if ``path`` cannot be used or must not be replaced, or the disk is full.
    """
    place = check_target(path, overwrite)
    try:
        storage.clear_leftovers(place, _holds_only_ours)
        storage.require_space(place, sum(leaf.nbytes for leaf in transitions.values(True, True)))
        if place.exists():
            _write_into(place, transitions, manifest)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            with storage.new_folder(place) as temporary:
                final = _write_tensors(temporary / TRANSITIONS_FOLDER, transitions, manifest)
                storage.atomic_write_text(temporary / MANIFEST_FILE, final.to_json())
    except storage.StorageError as error:
        raise DatasetError(str(error)) from error
    except OSError as error:
        raise DatasetError(f"{path} could not be written ({error}); existing files are unchanged") from error
    return storage.expanded(path)


def _write_into(place: Path, transitions: TensorDictBase, manifest: DatasetManifest) -> None:
    """Replace the dataset in an existing folder, or fill the folder if it is empty."""
    old = read_manifest(place) if (place / MANIFEST_FILE).is_file() else None
    _clear_inside(place, old)
    name = f"{TRANSITIONS_FOLDER}-{storage.owner_tag()}"
    try:
        with storage.disk_errors(place):
            final = _write_tensors(place / name, transitions, manifest)
        with storage.atomic_write(place / MANIFEST_FILE, follow_link=False) as temporary:
            temporary.write_text(final.to_json(), encoding="utf-8")
    except BaseException:
        if _current_folder(place) != name:
            shutil.rmtree(place / name, ignore_errors=True)
        raise
    if old is not None:
        _delete_tensors(place / old.folder)


def _write_tensors(folder: Path, transitions: TensorDictBase, manifest: DatasetManifest) -> DatasetManifest:
    """Write every tensor into its own file, and return the manifest of the result."""
    _write_node(folder, transitions)
    filled = manifest.replace(folder=folder.name, checksums=folder_checksums(folder))
    return filled.replace(checksums=filled.checksums | {MANIFEST_FILE: filled.digest()})


def _write_node(folder: Path, node: TensorDictBase) -> None:
    folder.mkdir()
    # read by TensorDict.load_memmap; also lists the dataset's files
    description: dict[str, Any] = {
        key: {
            "device": "cpu",
            "shape": list(value.shape),
            "dtype": str(value.dtype),
            "is_nested": False,
        }
        if isinstance(value, Tensor)
        else {"type": "TensorDict"}
        for key, value in node.items()
    }
    description |= {
        "shape": list(node.batch_size),
        "device": "cpu",
        "_type": "<class 'tensordict._td.TensorDict'>",
    }
    with storage.new_file(folder / META_FILE) as descriptor:
        _write_all(descriptor, json.dumps(description).encode())
    for key, value in node.items():
        if isinstance(value, Tensor):
            _write_tensor(folder / f"{key}{TENSOR_SUFFIX}", value)
        else:
            _write_node(folder / key, value)
    storage.sync(folder)


def _write_tensor(file: Path, value: Tensor) -> None:
    with storage.new_file(file, value.nbytes) as descriptor:
        for block in row_blocks(0, len(value)):
            rows = value[block].detach().resolve_neg().contiguous().flatten()
            _write_all(descriptor, rows.view(torch.uint8).numpy().data)


def _write_all(descriptor: int, content: bytes | memoryview) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _current_folder(place: Path) -> str | None:
    try:
        return read_manifest(place).folder
    except DatasetError:
        return None


def _clear_inside(place: Path, manifest: DatasetManifest | None) -> None:
    """Delete tensor folders of interrupted saves, to which no manifest refers."""
    current = None if manifest is None else manifest.folder
    storage.clear_leftovers(place / MANIFEST_FILE)
    for folder in sorted(place.iterdir()):
        if folder.name != current and _left_over(folder, current):
            if _holds_only_ours(folder) and folder.name != TRANSITIONS_FOLDER:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                _delete_tensors(folder)


def _left_over(path: Path, current: str | None) -> bool:
    """Whether ``path`` is a temporary file or a tensor folder of an interrupted save."""
    if path.name.startswith(f"{MANIFEST_FILE}.tmp-") and storage.owned_by_dead_process(path):
        return True
    if path.is_symlink() or not path.is_dir() or path.name == current:
        return False
    replaced = path.name == TRANSITIONS_FOLDER and (
        set(ID_KEYS) <= set(_entries(path)) or not any(path.iterdir())
    )
    tagged = path.name.startswith(f"{TRANSITIONS_FOLDER}-") and storage.owned_by_dead_process(path)
    return replaced or tagged


def _holds_only_ours(folder: Path) -> bool:
    """Whether a folder contains only files of a dataset."""
    for place, folders, files in os.walk(folder):
        if any(Path(place, each).is_symlink() for each in (*folders, *files)):
            return False
        known = (MANIFEST_FILE, META_FILE)
        if any(
            each not in known and not each.endswith(TENSOR_SUFFIX) and ".tmp-" not in each for each in files
        ):
            return False
    return True


def _delete_tensors(folder: Path) -> None:
    """Delete a dataset's files in ``folder``, as listed in ``meta.json``; all others are kept.

    Files behind links are not touched. ``meta.json`` is deleted last, so that the next save can finish an
    interrupted deletion. Files that cannot be deleted remain, because the new dataset is already complete.
    """
    if folder.is_symlink():
        _remove(folder, os.unlink)
    if folder.is_symlink() or not folder.is_dir():
        return
    entries = _entries(folder)
    for key, entry in entries.items():
        if not isinstance(entry, dict) or not key.isidentifier():
            continue
        if str(entry.get("dtype", "")).removeprefix("torch.") in DTYPES:
            _remove(folder / f"{key}{TENSOR_SUFFIX}", os.unlink)
        elif (folder / key).is_dir():
            _delete_tensors(folder / key)
    if entries:
        _remove(folder / META_FILE, os.unlink)
    _remove(folder, os.rmdir)


def _entries(folder: Path) -> dict[str, Any]:
    """The entries of ``meta.json`` in a folder of tensors; empty if they cannot be read."""
    try:
        entries = json.loads((folder / META_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return entries if isinstance(entries, dict) else {}


def _remove(path: Path, act: Callable[[Path], None]) -> None:
    """Delete a file or an empty folder if it exists."""
    with contextlib.suppress(OSError):
        act(path)
