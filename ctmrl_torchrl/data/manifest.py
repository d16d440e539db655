"""The description of a dataset: its environment and tasks, its origin, and its checksums."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import platform
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.fields import (
    LONGEST_HORIZON,
    check_filled_in,
    check_oracle,
    check_origin,
    check_snapshots,
    check_tasks,
    plain,
    shown,
)
from ctmrl_torchrl.machine import processor_facts

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
TRANSITIONS_FOLDER = "transitions"
#: file beside the tensors of each folder, read by ``TensorDict.load_memmap``
META_FILE = "meta.json"
#: ending of a tensor's file
TENSOR_SUFFIX = ".memmap"
#: types of the fields that are not dictionaries
_KINDS: dict[str, Any] = {
    "env": str,
    "preset": str,
    "horizon": int,
    "snapshots": list,
    "format_version": int,
    "discount": (int, float),
    "folder": str,
}


@dataclass(frozen=True)
class DatasetManifest:
    """The description of a dataset in plain JSON types.

    Args:
        env: name of the environment family; any name if there is no environment.
        preset: task-set preset (``"repo"``, ``"paper"``, or a custom name).
        horizon: steps after which an episode is truncated; the maximum length of a trajectory.
        tasks: ``parameters`` (one row per task), ``parameter_names``, ``train_ids``, ``test_ids``;
            ``TaskSet.to_dict()`` returns them.
        snapshots: one dictionary per behavior policy with at least ``id``; usually also ``step`` and
            ``mean_return``. Id 0 is the least trained behavior.
        seeds: the seeds of the collection.
        versions: versions of the packages used for the collection, see :func:`library_versions`.
        recipe: settings of the collection, sufficient to repeat it.
        oracle: mean returns of the last behavior without exploration noise, if measured: ``train``, ``test``,
            ``task_returns`` (by position in ``task_ids``, or by task id without it), ``episodes`` (per task).
        counts: numbers of ``transitions``, ``trajectories``, ``tasks``, ``snapshots``; filled in by
            :class:`~ctmrl_torchrl.data.TaskDataset`.
        keys: ``{"next.reward": [[1], "float32"], ...}``: shape after the batch dimension, and dtype; filled in.
        checksums: ``{relative file: sha256}`` of every file of the dataset, and of the manifest's other
            fields under ``"manifest.json"``; filled in when saved.
        format_version: version of the file layout.
        discount: gamma; required if ``env`` is not a registered family.
        folder: name of the folder with the tensors, beside the manifest; filled in when saved.
        source: digests of the user's files that defined the environment family, by file name; empty for shipped
            families and not written then. No part of :meth:`digest`.

    Raises:
        DatasetError: if a field has the wrong type or value.

    Examples:
        >>> tasks = {"parameters": [[1.0]], "parameter_names": ["goal"], "train_ids": [0], "test_ids": []}
        >>> manifest = DatasetManifest(env="point_robot", preset="repo", horizon=20, tasks=tasks)
        >>> DatasetManifest.from_json(manifest.to_json()) == manifest
        True
    """

    env: str
    preset: str
    horizon: int
    tasks: dict[str, Any]
    snapshots: list[dict[str, Any]] = field(default_factory=list)
    seeds: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    oracle: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    discount: float | None = None
    folder: str = TRANSITIONS_FOLDER
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise DatasetError(
                f"manifest: format_version is {shown(self.format_version)}, this library reads "
                f"{FORMAT_VERSION}; collect the dataset again or use the library version that wrote it"
            )
        for each in dataclasses.fields(self):
            value, kind = getattr(self, each.name), _KINDS.get(each.name, dict)
            if each.name == "discount" and value is None:
                continue
            if isinstance(value, np.generic):
                value = value.item()
            if isinstance(value, bool) or not isinstance(value, kind):
                names = kind.__name__ if isinstance(kind, type) else "a number"
                raise DatasetError(
                    f"manifest: {each.name} must be {names}, got {type(value).__name__} ({shown(value)})"
                )
            object.__setattr__(self, each.name, plain(value, each.name))
        if not 1 <= self.horizon <= LONGEST_HORIZON:
            raise DatasetError(
                f"manifest: horizon must be at least 1 and at most {LONGEST_HORIZON}, got {self.horizon}"
            )
        if self.discount is not None and not 0 <= self.discount <= 1:
            raise DatasetError(f"manifest: discount must lie between 0 and 1, got {self.discount}")
        if re.fullmatch(rf"{TRANSITIONS_FOLDER}[-\w]*", self.folder) is None:
            raise DatasetError(
                f"manifest: folder is {shown(self.folder)}, expected {TRANSITIONS_FOLDER!r} or that with a suffix"
            )
        if not self.env.strip():
            raise DatasetError("manifest: env is empty; give the name of the environment")
        check_tasks(self.tasks)
        check_snapshots(self.snapshots, self.n_tasks)
        check_oracle(self.oracle, self.n_tasks)
        check_origin(self.recipe, self.seeds, self.versions, self.source)
        check_filled_in(self.counts, self.keys, self.checksums)

    @property
    def n_tasks(self) -> int:
        """Number of tasks in the task set (the dataset may contain fewer)."""
        return len(self.tasks["parameters"])

    @property
    def train_ids(self) -> tuple[int, ...]:
        """Task ids of the training split."""
        return tuple(self.tasks["train_ids"])

    @property
    def test_ids(self) -> tuple[int, ...]:
        """Task ids of the test split."""
        return tuple(self.tasks["test_ids"])

    def replace(self, **changes: Any) -> DatasetManifest:
        """Return a copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def to_json(self) -> str:
        """Return readable JSON, from which :meth:`from_json` restores an equal manifest."""
        fields = dataclasses.asdict(self)
        if not self.source:  # as in manifests of earlier versions
            del fields["source"]
        return json.dumps(fields, indent=2, allow_nan=False) + "\n"

    def digest(self) -> str:
        """Return the sha256 of the fields, without the manifest's own entry in :attr:`checksums`.

        Fields with default values are omitted, so that new fields of later versions do not change the digest.
        The ``source`` is omitted too: the same data have the same digest, whatever the file that made them.
        """
        fields = dataclasses.asdict(self)
        del fields["source"]
        fields["checksums"] = {k: v for k, v in self.checksums.items() if k != MANIFEST_FILE}
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        said = {name: value for name, value in fields.items() if value != defaults[name]}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def content_digest(self) -> str:
        """Return the sha256 of what training reads: the tensors, the tasks and their split, and the horizon.

        How the data were made (versions, seeds, recipe, measured returns) is not part of it: the same tensors,
        collected on two machines, have the same digest. Parameters of tasks count with six decimals, because two
        processors may round the last digits differently.

        Raises:
            DatasetError: if the dataset is not saved, because the tensors count by the checksums of their files.
        """
        tensors = {name: value for name, value in self.checksums.items() if name.endswith(TENSOR_SUFFIX)}
        if not tensors:
            raise DatasetError(
                "manifest: checksums names no tensors, because this dataset is not saved; save it first and load "
                "it: TaskDataset.load(dataset.save(path))"
            )
        content = {
            "tensors": tensors,
            "keys": self.keys,
            "env": self.env,
            "preset": self.preset,
            "horizon": self.horizon,
            "tasks": self.tasks | {"parameters": _six_decimals(self.tasks["parameters"])},
            "discount": self.discount,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str, *, source: str = MANIFEST_FILE) -> DatasetManifest:
        """Create a manifest from the output of :meth:`to_json`; ``source`` is the file name in error messages."""
        try:
            fields = json.loads(text, parse_constant=_no_constant)
        except ValueError as error:  # invalid syntax, or integers of thousands of digits
            raise DatasetError(f"{source} is not valid JSON ({error}); the file is damaged") from error
        except RecursionError:
            raise DatasetError(f"{source} is nested too deeply for a manifest; the file is damaged") from None
        if not isinstance(fields, dict):
            raise DatasetError(f"{source}: expected a JSON object, got {type(fields).__name__}")
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise DatasetError(
                f"{source}: unknown fields {', '.join(name[:80] for name in unknown)}; it was edited, or written "
                "by a later version of this library"
            )
        required = [
            name for name in ("env", "preset", "horizon", "tasks", "format_version") if name not in fields
        ]
        if required:
            raise DatasetError(f"{source} lacks the fields {', '.join(required)}")
        try:
            return cls(**fields)
        except DatasetError as error:
            raise DatasetError(str(error).replace("manifest", source, 1)) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a valid JSON number")


def library_versions() -> dict[str, str]:
    """Return the versions that affect a dataset, for a manifest: Python, packages and the processor.

    Results are bitwise reproducible only on the same processor: ``processor`` is its name, and
    ``torch_cpu_capability`` is the instruction set that torch uses.
    """
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchrl", "tensordict", "numpy", "mujoco", "ctmrl_torchrl"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions | processor_facts()


def folder_checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file under ``folder``, by its path relative to it."""
    checksums = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            checksums[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return checksums


def _six_decimals(rows: list[list[float]]) -> list[list[float]]:
    return [[round(value, 6) + 0.0 for value in row] for row in rows]  # + 0.0 turns -0.0 into 0.0
