"""The identity of a run: the configuration that training depends on, and the data."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.training.config import ExperimentConfig

_FIELDS = ("env", "tasks", "method", "seed", "compile")
_SECTIONS = ("context", "batch", "encoder", "representation", "policy_loss", "optimizer", "schedule")


def run_identity(config: ExperimentConfig, dataset: TaskDataset | None = None) -> dict[str, Any]:
    """The fields that a checkpoint must share with the run that resumes it: all that affect training.

    Args:
        config: the run's configuration. dataset: its data, if already loaded.
    """
    identity = {name: getattr(config, name) for name in _FIELDS}
    if config.compile == "recorded":
        identity["compile"] = False  # the same numbers
    if config.held_out is not None:
        identity["tasks"] = f"{config.tasks} without {config.held_out}"
    for section in _SECTIONS:
        values = asdict(getattr(config, section))
        identity |= {f"{section}.{name}": value for name, value in values.items()}
    for part, own in (config.parts or {}).items():
        identity |= {f"parts.{part}.{name}": value for name, value in asdict(own).items()}
    return identity if dataset is None else identity | {"dataset": fingerprint(dataset)}


def fingerprint(dataset: TaskDataset) -> str:
    """A short fingerprint of what training reads of a dataset: see :meth:`DatasetManifest.content_digest`."""
    return dataset.manifest.content_digest()[:12]
