"""TensorDict keys: joining them, and reading required entries."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from tensordict import TensorDictBase
from tensordict.utils import NestedKey


def join_key(*parts: NestedKey) -> NestedKey:
    """Concatenate keys into one nested key: ``join_key("context", ("next", "reward"))``."""
    flat: tuple[Any, ...] = tuple(
        piece for part in parts for piece in (part if isinstance(part, tuple) else (part,))
    )
    return flat if len(flat) != 1 else flat[0]


def rest_of_key(key: NestedKey, root: NestedKey) -> tuple[str, ...] | None:
    """The part of ``key`` after ``root``, empty if they are equal; None if ``key`` is not below ``root``."""
    parts: tuple[Any, ...] = key if isinstance(key, tuple) else (key,)
    root_parts: tuple[Any, ...] = root if isinstance(root, tuple) else (root,)
    return parts[len(root_parts) :] if parts[: len(root_parts)] == root_parts else None


class MissingEntryError(KeyError):
    """An entry that a module or a loss reads is missing.

    Attributes:
        reader (str): who reads it. key (NestedKey): the missing key.
    """

    def __init__(self, message: str, reader: str, key: NestedKey) -> None:
        super().__init__(message)
        self.reader, self.key = reader, key

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError shows the repr, with quotes


def nearest_key(key: NestedKey, known: Iterable[NestedKey]) -> NestedKey | None:
    """The most similar of the known keys, or None.

    Examples:
        >>> nearest_key(("context", "reward"), [("context", "action"), ("context", "next", "reward")])
        ('context', 'next', 'reward')
        >>> nearest_key("zzz", ["action"]) is None
        True
    """
    paths = {_path(each): each for each in known}
    path = _path(key)
    close = difflib.get_close_matches(path, list(paths), n=1, cutoff=0.5)
    return paths[close[0]] if close else None


def _path(key: NestedKey) -> str:
    return ".".join(map(str, key)) if isinstance(key, tuple) else key


def read(tensordict: TensorDictBase, key: NestedKey, reader: str) -> Any:
    """The entry under ``key``, or an error with the reader and the missing key (``TensorDict.get`` returns None).

    Raises:
        MissingEntryError: if the entry is missing, with the nearest one; a KeyError.
    """
    value = tensordict.get(key, None)
    if value is None:
        held = list(tensordict.keys(True, True))
        found, close = sorted(map(str, held)), nearest_key(key, held)
        raise MissingEntryError(
            f"{reader} reads {key!r}, which this input lacks; it holds {', '.join(found) or 'nothing'}. "
            + (f"Did you mean {close!r}? " if close is not None else "")
            + "Provide that entry, or change the key (set_keys of a loss, in_keys of a module).",
            reader,
            key,
        )
    return value
