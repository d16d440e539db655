"""Keys of tensordicts: joining them, and reading one that must be there."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor


def join_key(*parts: NestedKey) -> NestedKey:
    """Concatenate keys into one nested key: ``join_key("context", ("next", "reward"))``."""
    flat = tuple(piece for part in parts for piece in (part if isinstance(part, tuple) else (part,)))
    return flat if len(flat) > 1 else flat[0]


def rest_of_key(key: NestedKey, root: NestedKey) -> tuple[str, ...] | None:
    """What follows ``root`` in ``key``, empty where they are the same; None if ``key`` lies elsewhere."""
    parts, root_parts = (k if isinstance(k, tuple) else (k,) for k in (key, root))
    return parts[len(root_parts) :] if parts[: len(root_parts)] == root_parts else None


def read(tensordict: TensorDictBase, key: NestedKey, reader: str) -> Tensor | TensorDictBase:
    """The entry under ``key``, or an error that says who missed what (``TensorDict.get`` returns None).

    Raises:
        KeyError: if there is no such entry.
    """
    value = tensordict.get(key, None)
    if value is None:
        found = sorted(map(str, tensordict.keys(True, True)))
        raise KeyError(
            f"{reader} reads {key!r}, which this input lacks; it holds {', '.join(found) or 'nothing'}. "
            "Provide that entry, or rename what is read (set_keys of a loss, in_keys of a module)."
        )
    return value
