"""TensorDict keys: joining them, and reading required entries."""

from __future__ import annotations

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


def read(tensordict: TensorDictBase, key: NestedKey, reader: str) -> Any:
    """The entry under ``key``, or an error with the reader and the missing key (``TensorDict.get`` returns None).

    Raises:
        KeyError: if the entry is missing.
    """
    value = tensordict.get(key, None)
    if value is None:
        found = sorted(map(str, tensordict.keys(True, True)))
        raise KeyError(
            f"{reader} reads {key!r}, which this input lacks; it holds {', '.join(found) or 'nothing'}. "
            "Provide that entry, or change the key (set_keys of a loss, in_keys of a module)."
        )
    return value
