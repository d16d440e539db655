"""Importers by name; a user's own is one registration away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.registry import Registry

#: functions that make a :class:`~ctmrl_torchrl.data.TaskDataset` of a source and keyword arguments
IMPORTERS: Registry[Callable[..., TaskDataset]] = Registry("importer")


def import_dataset(importer: str, source: Any, **options: Any) -> TaskDataset:
    """Import data with the importer of this name.

    Args:
        importer: ``"released"``, ``"unicorn"``, ``"minari"``, or a name registered in :data:`IMPORTERS`.
        source: what the importer reads, its first argument: usually a folder.
        options: the importer's keyword arguments.

    Raises:
        UnknownChoiceError: if no importer has this name.
        DatasetError: if the data cannot be used.

    Examples:
        >>> import_dataset("relesed", "folder")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.registry.UnknownChoiceError: Unknown importer 'relesed'. Did you mean 'released'? \
Known: minari, released, unicorn.
    """
    return IMPORTERS.get(importer)(source, **options)
