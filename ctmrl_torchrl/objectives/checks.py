"""Checks of what a loss is given. They look at keys and shapes alone, so they never wait for a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read

REDUCTIONS = ("mean", "sum", "none")


def known_reduction(reduction: str, loss: str) -> str:
    """The reduction, if it is one.

    Raises:
        ValueError: if it is not ``"mean"``, ``"sum"`` or ``"none"``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"{loss}: reduction={reduction!r} is unknown; choose 'mean', 'sum' or 'none'.")
    return reduction


def require_entries(tensordict: TensorDictBase, keys: Iterable[NestedKey], reader: str) -> None:
    """Make sure that every entry is there.

    Raises:
        KeyError: naming the first one that is missing, who reads it, and what there is instead.
    """
    for key in keys:
        read(tensordict, key, reader)


def require_shape(
    value: Tensor, expected: Sequence[int | str], *, reader: str, what: str, hint: str
) -> Tensor:
    """The tensor, if it has the expected shape; a name instead of a number stands for any size.

    Args:
        value (Tensor): what is checked.
        expected: sizes, e.g. ``("T", "d")`` or ``(5, 7, 1)``.
        reader (str): the loss that reads it. what (str): its key or origin. hint (str): what to do about it.

    Raises:
        ValueError: if rank or sizes differ.
    """
    shape = value.shape
    same = len(shape) == len(expected) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(shape, expected, strict=True)
    )
    if not same:
        wanted = ", ".join(str(size) for size in expected)
        raise ValueError(f"{reader}: {what} has shape {list(shape)}, expected [{wanted}]; {hint}")
    return value


def require_transitions(
    tensordict: TensorDictBase,
    entries: Iterable[NestedKey],
    *,
    action: NestedKey,
    columns: Iterable[NestedKey],
    optional: Iterable[NestedKey] = (),
    reader: str,
) -> tuple[int, ...]:
    """Make sure that a batch of transitions can be learnt from, and return its shape ``[*]``.

    Args:
        tensordict (TensorDictBase): the batch.
        entries: keys that must be there. optional: those among them that may be left out.
        action (NestedKey): ``[*, actions]``; tells the shape of the batch.
        columns: keys whose entries must be ``[*, 1]``: reward and the flags.
        reader (str): the loss that reads them.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if one of ``columns`` is not ``[*, 1]``.
    """
    optional = set(optional)
    require_entries(tensordict, (key for key in entries if key not in optional), reader)
    lead = tuple(tensordict.get(action).shape[:-1])
    for key in columns:
        value = tensordict.get(key, None)
        if value is not None:
            require_shape(
                value,
                (*lead, 1),
                reader=reader,
                what=repr(key),
                hint="one value per transition and a last dimension of size 1 (unsqueeze(-1) adds it).",
            )
    return lead
