"""The error that every part of the data room raises for data that cannot be used."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset on disk or in memory is missing, damaged, or not laid out as the library expects.

    The message names the file, task, key or row concerned, what was expected, and what to do about it.

    Examples:
        >>> raise DatasetError("transitions/action.memmap is missing")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.data.errors.DatasetError: transitions/action.memmap is missing
    """
