"""The readable half of a dataset: its environment and tasks, how it was made, and its checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDictBase

from ctmrl_torchrl.data.errors import DatasetError

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
TRANSITIONS_FOLDER = "transitions"
_TASK_FIELDS = ("parameters", "parameter_names", "train_ids", "test_ids")


@dataclass(frozen=True)
class DatasetManifest:
    """What a dataset holds, in plain JSON types.

    Args:
        env: environment family, a name of ``ctmrl_torchrl.envs.family_names()``.
        preset: task-set preset (``"repo"``, ``"paper"``, or a name of your own).
        horizon: steps after which an episode is truncated; no trajectory may be longer.
        tasks: ``parameters`` (one row per task), ``parameter_names``, ``train_ids``, ``test_ids``;
            ``TaskSet.to_dict()`` has them.
        snapshots: one dictionary per behaviour policy with at least ``id``; usually also ``step`` and
            ``mean_return``. The id 0 is the least trained behaviour.
        seeds: the seeds the data were made with.
        versions: versions of the packages the data were made with, see :func:`library_versions`.
        recipe: how the data were made, enough to make them again.
        oracle: mean returns of the last behaviour without noise, where it was measured: ``train``, ``test``,
            ``task_returns`` (by task id), ``episodes`` (per task).
        counts: numbers of ``transitions``, ``trajectories``, ``tasks``, ``snapshots``; filled in by
            :class:`~ctmrl_torchrl.data.TaskDataset`.
        keys: ``{"next.reward": [[1], "float32"], ...}``: shape after the batch dimension, and dtype; also
            filled in.
        checksums: ``{relative file: sha256}`` of every file under ``transitions/``; filled in when saved.
        format_version: version of the layout on disk.

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

    def __post_init__(self) -> None:
        if self.format_version != FORMAT_VERSION:
            raise DatasetError(
                f"manifest: format_version is {self.format_version!r}, this library reads {FORMAT_VERSION}; "
                "collect the dataset again or use the library version that wrote it"
            )
        for name, kind in (
            ("env", str),
            ("preset", str),
            ("horizon", int),
            ("tasks", dict),
            ("snapshots", list),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise DatasetError(
                    f"manifest: {name} must be {kind.__name__}, got {type(value).__name__} ({value!r})"
                )
        for name in ("seeds", "versions", "recipe", "oracle", "counts", "keys", "checksums"):
            if not isinstance(getattr(self, name), dict):
                raise DatasetError(f"manifest: {name} must be dict, got {type(getattr(self, name)).__name__}")
        if self.horizon < 1:
            raise DatasetError(f"manifest: horizon must be at least 1, got {self.horizon}")
        missing = [name for name in _TASK_FIELDS if name not in self.tasks]
        if missing:
            raise DatasetError(
                f"manifest: tasks lacks {', '.join(missing)}; TaskSet.to_dict() has all of them"
            )
        for name in _TASK_FIELDS:
            if not isinstance(self.tasks[name], list | tuple):
                raise DatasetError(f"manifest: tasks.{name} must be a list, got {self.tasks[name]!r}")
        self._check_parameters()
        split = [*self.train_ids, *self.test_ids]
        outside = [i for i in split if not isinstance(i, int) or not 0 <= i < self.n_tasks]
        if outside:
            raise DatasetError(
                f"manifest: tasks.train_ids/test_ids {outside} are outside 0..{self.n_tasks - 1}"
            )
        if len(set(split)) != len(split):
            raise DatasetError("manifest: tasks.train_ids and test_ids overlap or repeat a task")
        ids = [entry.get("id") if isinstance(entry, dict) else None for entry in self.snapshots]
        if any(not isinstance(i, int) for i in ids) or len(set(ids)) != len(ids):
            raise DatasetError(
                'manifest: every entry of snapshots must be a dictionary with an integer "id" of its own'
            )

    def _check_parameters(self) -> None:
        rows = self.tasks["parameters"]
        for task, row in enumerate(rows):
            if not isinstance(row, list | tuple) or len(row) != len(rows[0]):
                raise DatasetError(
                    f"manifest: tasks.parameters of task {task} is {row!r}, expected one as long as task 0's"
                )
            if not all(isinstance(value, int | float) and math.isfinite(value) for value in row):
                raise DatasetError(
                    f"manifest: tasks.parameters of task {task} is {row!r}, expected finite numbers"
                )

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
        """Return readable JSON; numbers that JSON cannot hold are an error."""
        try:
            return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False) + "\n"
        except (TypeError, ValueError) as error:
            raise DatasetError(
                f"manifest: cannot be written as JSON: {error}; use plain finite values"
            ) from error

    @classmethod
    def from_json(cls, text: str, *, source: str = MANIFEST_FILE) -> DatasetManifest:
        """Read what :meth:`to_json` wrote; ``source`` is only named in errors."""
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise DatasetError(f"{source}: not valid JSON ({error}); the file is damaged") from error
        if not isinstance(fields, dict):
            raise DatasetError(f"{source}: expected a JSON object, got {type(fields).__name__}")
        known = {f.name: f for f in dataclasses.fields(cls)}
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise DatasetError(f"{source}: unknown fields {', '.join(unknown)}")
        required = [
            name for name in ("env", "preset", "horizon", "tasks", "format_version") if name not in fields
        ]
        if required:
            raise DatasetError(f"{source}: fields missing: {', '.join(required)}")
        try:
            return cls(**fields)
        except DatasetError as error:
            raise DatasetError(str(error).replace("manifest", source, 1)) from None


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that shape a dataset, for a manifest."""
    versions = {"python": platform.python_version()}
    for package in ("torch", "torchrl", "tensordict", "numpy", "mujoco", "ctmrl_torchrl"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def key_name(key: str | tuple[str, ...]) -> str:
    """Return the manifest's name of a TensorDict key: ``("next", "reward")`` is ``"next.reward"``."""
    return key if isinstance(key, str) else ".".join(key)


def describe_keys(transitions: TensorDictBase) -> dict[str, list]:
    """Return ``{name: [shape after the batch dimension, dtype]}`` of every tensor, in sorted order."""
    leaves = transitions.items(include_nested=True, leaves_only=True)
    described = {key_name(k): [list(v.shape[1:]), str(v.dtype).removeprefix("torch.")] for k, v in leaves}
    return dict(sorted(described.items()))


def parse_dtype(name: str) -> torch.dtype:
    """Return the torch dtype named in a manifest."""
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if not isinstance(dtype, torch.dtype):
        raise DatasetError(f"manifest: keys: {name!r} is not a torch dtype")
    return dtype


def folder_checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file under ``folder``, by its path relative to it."""
    checksums = {}
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        with file.open("rb") as stream:
            checksums[file.relative_to(folder).as_posix()] = hashlib.file_digest(stream, "sha256").hexdigest()
    return checksums
