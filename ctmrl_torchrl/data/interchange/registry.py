"""The registry of importers, which users can extend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.registry import Registry

#: functions that create a :class:`~ctmrl_torchrl.data.TaskDataset` from a source and keyword arguments
IMPORTERS: Registry[Callable[..., TaskDataset]] = Registry("importer")


def import_dataset(importer: str, source: Any, **options: Any) -> TaskDataset:
    """Import data with a named importer.

    Args:
        importer: ``"released"``, ``"unicorn"``, ``"minari"``, or a name registered in :data:`IMPORTERS`.
        source: first argument of the importer, usually a folder.
        options: the importer's keyword arguments.

    Raises:
        UnknownChoiceError: if the importer is unknown.
        DatasetError: if the data cannot be used.

    Examples:
        >>> import_dataset("relesed", "folder")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.registry.UnknownChoiceError: Unknown importer 'relesed'. Did you mean 'released'? \
Known: minari, released, unicorn.
    """
    return IMPORTERS.get(importer)(source, **options)
