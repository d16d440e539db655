"""The error for data that cannot be used."""

from __future__ import annotations


class DatasetError(ValueError):
    """A dataset on disk or in memory is missing, damaged, or not laid out as the library expects.

    The message contains the affected file, task, key or row, what was expected, and how to fix it.

    Examples:
        >>> raise DatasetError("transitions/action.memmap is missing")
        Traceback (most recent call last):
        ...
        ctmrl_torchrl.data.errors.DatasetError: transitions/action.memmap is missing
    """
