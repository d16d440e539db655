"""Checks of what a loss is given: keys, shapes and dtypes alone, so they never wait for a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
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


def require_flags(tensordict: TensorDictBase, keys: Iterable[NestedKey], reader: str) -> None:
    """Make sure that the flags which are there are truth values.

    ``1 - terminated`` of a ``uint8`` wraps around, ``~terminated`` of an ``int64`` is -2 or -1: a wrong target
    without an error.

    Args:
        tensordict (TensorDictBase): the batch. keys: of the flags. reader (str): who reads them.

    Raises:
        ValueError: naming the first flag of another dtype than bool, and how to convert it.

    Examples:
        >>> from tensordict import TensorDict
        >>> require_flags(TensorDict({"done": torch.zeros(3, 1)}, [3]), ["done"], "IQLLoss")
        Traceback (most recent call last):
        ...
        ValueError: IQLLoss: 'done' has the dtype torch.float32, expected torch.bool; convert it by \
td['done'] = td['done'].bool().
    """
    for key in keys:
        value = tensordict.get(key, None)
        if value is not None and value.dtype is not torch.bool:
            raise ValueError(
                f"{reader}: {key!r} has the dtype {value.dtype}, expected torch.bool; convert it by "
                f"td[{key!r}] = td[{key!r}].bool()."
            )


def require_transitions(
    tensordict: TensorDictBase,
    entries: Iterable[NestedKey],
    *,
    action: NestedKey,
    columns: Iterable[NestedKey],
    flags: Iterable[NestedKey] = (),
    optional: Iterable[NestedKey] = (),
    reader: str,
) -> tuple[int, ...]:
    """Make sure that a batch of transitions can be learnt from, and return its shape ``[*]``.

    Args:
        tensordict (TensorDictBase): the batch.
        entries: keys that must be there. optional: those among them that may be left out.
        action (NestedKey): ``[*, actions]``; tells the shape of the batch.
        columns: keys whose entries must be ``[*, 1]``: reward and the flags.
        flags: those among them that must be bool.
        reader (str): the loss that reads them.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if one of ``columns`` is not ``[*, 1]``, or one of ``flags`` not bool.
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
    require_flags(tensordict, flags, reader)
    return lead
