"""The readable half of a dataset: its environment and tasks, how it was made, and its checksums."""

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
#: beside the tensors of each folder: what ``TensorDict.load_memmap`` reads
META_FILE = "meta.json"
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
    """What a dataset holds, in plain JSON types.

    Args:
        env: environment family; a registered one, or any name where the data are all there is.
        preset: task-set preset (``"repo"``, ``"paper"``, or a name of your own).
        horizon: steps after which an episode is truncated; no trajectory may be longer.
        tasks: ``parameters`` (one row per task), ``parameter_names``, ``train_ids``, ``test_ids``;
            ``TaskSet.to_dict()`` has them.
        snapshots: one dictionary per behavior policy with at least ``id``; usually also ``step`` and
            ``mean_return``. The id 0 is the least trained behavior.
        seeds: the seeds the data were made with.
        versions: versions of the packages the data were made with, see :func:`library_versions`.
        recipe: how the data were made, enough to make them again.
        oracle: mean returns of the last behavior without noise, where it was measured: ``train``, ``test``,
            ``task_returns`` (by task id), ``episodes`` (per task).
        counts: numbers of ``transitions``, ``trajectories``, ``tasks``, ``snapshots``; filled in by
            :class:`~ctmrl_torchrl.data.TaskDataset`.
        keys: ``{"next.reward": [[1], "float32"], ...}``: shape after the batch dimension, and dtype; also
            filled in.
        checksums: ``{relative file: sha256}`` of every file of the dataset, and of the manifest's other
            fields under ``"manifest.json"``; filled in when saved.
        format_version: version of the layout on disk.
        discount: gamma of the problem, where the data say it; needed where no registered family does.
        folder: the folder beside the manifest that holds the tensors; filled in when saved.

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
            raise DatasetError(f"manifest: discount must be from 0 to 1, got {self.discount}")
        if re.fullmatch(rf"{TRANSITIONS_FOLDER}[-\w]*", self.folder) is None:
            raise DatasetError(
                f"manifest: folder is {shown(self.folder)}, expected {TRANSITIONS_FOLDER!r} and a token"
            )
        if not self.env.strip():
            raise DatasetError("manifest: env is empty; name the environment")
        check_tasks(self.tasks)
        check_snapshots(self.snapshots, self.n_tasks)
        check_oracle(self.oracle, self.n_tasks)
        check_origin(self.recipe, self.seeds, self.versions)
        check_filled_in(self.counts, self.keys, self.checksums)

    @property
    def n_tasks(self) -> int:
        """Number of tasks of the task set (the dataset may hold fewer)."""
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
        """Return readable JSON, which :meth:`from_json` reads back to an equal manifest."""
        return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"

    def digest(self) -> str:
        """Return the sha256 of the fields, without the manifest's own entry in :attr:`checksums`.

        Fields that hold their default count as absent, so that a field of a later version changes nothing.
        """
        fields = dataclasses.asdict(self)
        fields["checksums"] = {k: v for k, v in self.checksums.items() if k != MANIFEST_FILE}
        defaults = {each.name: each.default for each in dataclasses.fields(self)}
        said = {name: value for name, value in fields.items() if value != defaults[name]}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str, *, source: str = MANIFEST_FILE) -> DatasetManifest:
        """Read what :meth:`to_json` wrote; ``source`` is only named in errors."""
        try:
            fields = json.loads(text, parse_constant=_no_constant)
        except ValueError as error:  # bad syntax, and whole numbers of thousands of digits
            raise DatasetError(f"{source}: not valid JSON ({error}); the file is damaged") from error
        except RecursionError:
            raise DatasetError(f"{source}: nested too deeply to be a manifest; the file is damaged") from None
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
            raise DatasetError(f"{source}: fields missing: {', '.join(required)}")
        try:
            return cls(**fields)
        except DatasetError as error:
            raise DatasetError(str(error).replace("manifest", source, 1)) from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON allows")


def library_versions() -> dict[str, str]:
    """Return the versions that shape a dataset, for a manifest: Python, packages, and the processor.

    The same command gives the same bits on one processor only: ``processor`` is its name and
    ``torch_cpu_capability`` the instructions that torch uses on it.
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
