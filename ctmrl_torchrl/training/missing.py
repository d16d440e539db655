"""Errors for entries that are missing from a meta-batch."""

from __future__ import annotations

from tensordict.utils import NestedKey

from ctmrl_torchrl.data.buffer import PARTS
from ctmrl_torchrl.modules.keys import MissingEntryError, join_key, nearest_key


def with_fields(error: MissingEntryError, fields: list[NestedKey]) -> MissingEntryError:
    """The error with the dataset's fields listed, if the missing entry is below a part of the meta-batch.

    A batch holds only what is read, so that the reader itself cannot tell which entries the dataset has.

    Examples:
        >>> error = MissingEntryError("no reward", "FOCALLoss", ("context", "reward"))
        >>> str(with_fields(error, ["action", ("next", "reward")]))[:90]
        "FOCALLoss reads ('context', 'reward'), which the dataset lacks. Did you mean ('context', '"
    """
    part = error.key[0] if isinstance(error.key, tuple) else error.key
    if part not in PARTS:
        return error
    close = nearest_key(error.key, [join_key(part, field) for field in fields])
    return MissingEntryError(
        f"{error.reader} reads {error.key!r}, which the dataset lacks. "
        + (f"Did you mean {close!r}? " if close is not None else "")
        + f"Below {part!r}, it has {', '.join(map(repr, fields))}. Change the key (in_keys of a module, set_keys "
        "of a loss), or let a part of the method write the entry.",
        error.reader,
        error.key,
    )
