"""Shared code of Minari export and import: the optional dependency and the names of additional entries."""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.manifest import DatasetManifest

#: metadata of a Minari dataset: the manifest as JSON, and the task of its episodes
MANIFEST_ENTRY = "ctmrl_manifest"
TASK_ENTRY = "ctmrl_task_id"
#: metadata of an episode
SNAPSHOT_ENTRY = "snapshot_id"
TRAJECTORY_ENTRY = "trajectory_id"
#: group in an episode's infos for entries without a place in Minari
INFOS = "ctmrl"
#: entries with a place in Minari
CORE = {("observation",), ("action",), ("next", "observation"), ("next", "reward"), ("next", "done")}
CORE |= {("next", "terminated"), ("next", "truncated"), ("task_id",), ("trajectory_id",), ("snapshot_id",)}


def require_minari() -> ModuleType:
    """Import Minari.

    Raises:
        ImportError: with installation instructions.
    """
    try:
        return importlib.import_module("minari")
    except ImportError as error:
        raise ImportError(
            'Minari is required and not installed; run: pip install "minari[hdf5]>=0.5.3"'
        ) from error


def local_names(minari: ModuleType) -> str:
    """The names of the local datasets, for messages; Minari's list fails if a folder has an odd name."""
    try:
        return ", ".join(sorted(minari.list_local_datasets())) or "none"
    except Exception as error:  # an error message must not fail
        return f"cannot be listed ({error})"


def to_numpy(values: Tensor) -> np.ndarray:
    """Return a NumPy array with the same bits; bfloat16, which NumPy lacks, becomes uint16."""
    values = values.contiguous()
    return (values.view(torch.uint16) if values.dtype == torch.bfloat16 else values).numpy()


def from_numpy(values: np.ndarray, dtype: torch.dtype) -> Tensor:
    """Invert :func:`to_numpy` for the dtype in the manifest."""
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 else tensor.to(dtype)


def read_manifest_entry(metadata: dict[str, Any], where: str) -> DatasetManifest | None:
    """Return the manifest that :func:`to_minari` stored, or None for other datasets.

    Raises:
        DatasetError: if it exists but cannot be read.
    """
    text = metadata.get(MANIFEST_ENTRY)
    if text is None:
        return None
    if not isinstance(text, str) or not isinstance(metadata.get(TASK_ENTRY), int):
        raise DatasetError(
            f"{where}: its metadata {MANIFEST_ENTRY} or {TASK_ENTRY} was changed after the export"
        )
    return DatasetManifest.from_json(text, source=f"{where}, metadata {MANIFEST_ENTRY}")


def manifest_entry(manifest: DatasetManifest) -> str:
    """The manifest as one line of JSON."""
    return json.dumps(json.loads(manifest.to_json()))
