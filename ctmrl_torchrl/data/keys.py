"""Names of a dataset's tensors in a TensorDict, in the manifest and on disk; supported dtypes."""

from __future__ import annotations

import unicodedata
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase
from torch import Tensor

from ctmrl_torchrl.data.errors import DatasetError

#: dtypes that can be stored without loss, by their name in the manifest
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    )
}
_LONGEST_NAME = 200
#: reserved names: the description next to the files and the mask of a context
_RESERVED = ("shape", "device", "_type", "mask")

Key = str | tuple[str, ...]


def key_name(key: Key) -> str:
    """Return the manifest's name of a TensorDict key: ``("next", "reward")`` is ``"next.reward"``."""
    return key if isinstance(key, str) else ".".join(key)


def key_parts(name: str) -> tuple[str, ...]:
    """Return the TensorDict key of a name in the manifest, as a tuple.

    Raises:
        DatasetError: if the name is not a valid key.
    """
    parts = tuple(name.split("."))
    if not all(_usable(part) for part in parts):
        raise DatasetError(f"manifest: keys: {name[:_LONGEST_NAME]!r} is not a valid key")
    return parts


def describe_keys(transitions: TensorDictBase) -> dict[str, list]:
    """Return ``{name: [shape after the batch dimension, dtype]}`` of every tensor, in sorted order."""
    leaves = transitions.items(include_nested=True, leaves_only=True)
    described = {key_name(k): [list(v.shape[1:]), str(v.dtype).removeprefix("torch.")] for k, v in leaves}
    return dict(sorted(described.items()))


def parse_dtype(name: object) -> torch.dtype:
    """Return the torch dtype of this name.

    Raises:
        DatasetError: if a dataset cannot store this dtype.
    """
    if not isinstance(name, str) or name not in DTYPES:
        raise DatasetError(
            f"manifest: keys: {name!r} is not a dtype that a dataset can store ({', '.join(DTYPES)})"
        )
    return DTYPES[name]


def storable(transitions: TensorDictBase) -> TensorDict:
    """Return the entries on the CPU after checking that each can be stored without loss.

    Args:
        transitions: batch size ``[n]``. Tensor classes become TensorDicts; nothing is copied on the CPU.

    Raises:
        DatasetError: with the entry that cannot be stored and how to fix it.
    """
    try:
        tree: dict[Any, Any] = transitions.to_dict()
    except RuntimeError as error:  # lazy stacks of tensors that cannot be stacked
        raise DatasetError(f"transitions cannot be read as one TensorDict: {error}") from error
    tree = _checked((), tree, len(transitions))
    return TensorDict.from_dict(tree, batch_size=transitions.batch_size)


def _checked(key: tuple[str, ...], node: dict[str, Any], rows: int) -> dict[str, Any]:
    seen: dict[str, str] = {}
    for part in node:
        if not _usable(part):
            raise DatasetError(
                f"{key_name((*key, part))}: the key {part!r} cannot be stored, because keys become file names; "
                f"rename it using letters, digits and underscores, e.g. {_suggestion(part)!r}"
            )
        if part in _RESERVED:
            raise DatasetError(
                f"{key_name((*key, part))}: the name {part!r} is reserved; rename the "
                f"entry, e.g. to {f'my_{part}'!r}"
            )
        other = seen.setdefault(unicodedata.normalize("NFC", part).casefold(), part)
        if other != part:
            raise DatasetError(
                f"{key_name((*key, part))}: the keys {other!r} and {part!r} would become the same file on some "
                "file systems; rename one of them"
            )
    return {part: _checked_entry((*key, part), value, rows) for part, value in node.items()}


def _checked_entry(key: tuple[str, ...], value: Any, rows: int) -> Any:
    name = key_name(key)
    if isinstance(value, dict):
        if not value:
            raise DatasetError(f"{name} is empty and cannot be stored; remove it")
        return _checked(key, value, rows)
    if not isinstance(value, Tensor):
        raise DatasetError(
            f"{name} is a {type(value).__name__}; a dataset contains only tensors. Remove it or store numbers "
            "instead"
        )
    _check_tensor(name, value, rows)
    return value.detach().cpu()


def _check_tensor(name: str, value: Tensor, rows: int) -> None:
    if value.layout != torch.strided or value.is_nested or value.device.type == "meta":
        raise DatasetError(
            f"{name} is a {'nested' if value.is_nested else str(value.layout)} tensor on "
            f"{value.device.type}; convert it to a dense tensor with values"
        )
    if str(value.dtype).removeprefix("torch.") not in DTYPES:
        raise DatasetError(
            f"{name} is {value.dtype}, which a dataset cannot store; convert it to one of {', '.join(DTYPES)}"
        )
    if not value.ndim or value.shape[0] != rows:
        raise DatasetError(f"{name} has shape {list(value.shape)}, expected [{rows}, ...]")
    if not value.numel():
        raise DatasetError(f"{name} has shape {list(value.shape)}, so it has no values; remove it")


def _usable(part: Any) -> bool:
    return isinstance(part, str) and part.isidentifier() and len(part.encode()) <= _LONGEST_NAME


def _suggestion(part: Any) -> str:
    letters = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in str(part))
    return (letters if letters.isidentifier() else f"_{letters}")[:_LONGEST_NAME]
