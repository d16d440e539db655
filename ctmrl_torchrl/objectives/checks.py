"""Input checks of losses. They read only keys, shapes and dtypes, so they never synchronize with a device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.registry import nearest

REDUCTIONS = ("mean", "sum", "none")


def known_reduction(reduction: str, loss: str) -> str:
    """Validate and return the reduction.

    Raises:
        ValueError: if it is not ``"mean"``, ``"sum"`` or ``"none"``.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"{loss}: reduction={reduction!r} is unknown; choose 'mean', 'sum' or 'none'.")
    return reduction


def require_weights(loss: str, **weights: float) -> None:
    """Require that weights and coefficients are finite and not negative; a negative one would reward an error.

    Args:
        loss (str): name of the loss. weights: the values, by the name of their argument.

    Raises:
        ValueError: with the first one that is not.

    Examples:
        >>> require_weights("CQVAELoss", prediction_weight=1.0, code_weight=-1.0)
        Traceback (most recent call last):
        ...
        ValueError: CQVAELoss: code_weight=-1.0; allowed is a finite number of at least 0 (0 disables its term).
    """
    for name, value in weights.items():
        if not 0 <= value < math.inf:
            raise ValueError(
                f"{loss}: {name}={value!r}; allowed is a finite number of at least 0 (0 disables its term)."
            )


def require_module(module: Any, what: str, loss: str, reads: str) -> None:
    """Require a TensorDictModule, with ``in_keys`` and ``out_keys``.

    Args:
        module: the object. what (str): what it is. loss (str): who needs it. reads (str): an example of its keys.

    Raises:
        TypeError: for anything else, such as a plain ``nn.Module``.

    Examples:
        >>> require_module(torch.nn.Linear(2, 4), "the context encoder", "MyLoss", '["x"], ["y"]')
        Traceback (most recent call last):
        ...
        TypeError: MyLoss: the context encoder is a Linear, expected a TensorDictModule, which has in_keys \
and out_keys; wrap it: TensorDictModule(module, ["x"], ["y"]).
    """
    if not (hasattr(module, "in_keys") and hasattr(module, "out_keys")):
        raise TypeError(
            f"{loss}: {what} is a {type(module).__name__}, expected a TensorDictModule, which has in_keys "
            f"and out_keys; wrap it: TensorDictModule(module, {reads})."
        )


def require_terms(losses: Any, promised: Iterable[NestedKey], loss: str) -> Any:
    """Require that a loss wrote every ``loss_*`` that its ``out_keys`` promise, and return what it wrote.

    A term under another name would never be trained.

    Args:
        losses: what ``forward`` returned. promised: the loss's ``out_keys``. loss (str): name of its class.

    Raises:
        TypeError: if it is not a TensorDict.
        ValueError: with the first term that is missing and the nearest written name.

    Examples:
        >>> from tensordict import TensorDict
        >>> require_terms(TensorDict({"spread": torch.ones(())}, []), ["loss_spread"], "MyLoss")
        Traceback (most recent call last):
        ...
        ValueError: MyLoss: forward does not write 'loss_spread', which out_keys promise; it writes 'spread'. \
Did you mean 'spread'? Only entries that start with loss_ are trained: write it under that name, \
or remove it from out_keys.
    """
    terms = [str(key) for key in promised if str(key).startswith("loss_")]
    if not isinstance(losses, (TensorDictBase, Mapping)):
        kind = type(losses).__name__
        example = terms[0] if terms else "loss_NAME"
        raise TypeError(
            f"{loss}: forward returned a {kind}, expected a TensorDict with the terms by name, such as "
            f'TensorDict({{"{example}": value}}, []).'
        )
    for term in terms:
        if term not in losses.keys():  # noqa: SIM118
            written = sorted(map(str, losses.keys()))
            near = nearest(term, [name for name in written if name not in terms])
            raise ValueError(
                f"{loss}: forward does not write {term!r}, which out_keys promise; it writes "
                f"{', '.join(map(repr, written)) or 'nothing'}.{near} Only entries that start with loss_ are "
                "trained: write it under that name, or remove it from out_keys."
            )
    return losses


def require_entries(tensordict: TensorDictBase, keys: Iterable[NestedKey], reader: str) -> None:
    """Require that every entry is present.

    Raises:
        KeyError: with the first missing entry, the loss that reads it, and the entries that are present.
    """
    for key in keys:
        read(tensordict, key, reader)


def require_shape(
    value: Tensor, expected: Sequence[int | str], *, reader: str, what: str, hint: str
) -> Tensor:
    """Require a shape and return the tensor. A name in place of a number matches any size.

    Args:
        value (Tensor): the tensor to check.
        expected: sizes, e.g. ``("T", "d")`` or ``(5, 7, 1)``.
        reader (str): the loss that reads it. what (str): its key or origin. hint (str): how to fix it.

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


def require_same_action(action: Tensor, data_action: Tensor, *, key: NestedKey, reader: str) -> Tensor:
    """Require that the actor's action has the shape of the data's action, and return it.

    Raises:
        ValueError: with both shapes.
    """
    hint = f"as the data's {key!r}: give the actor that many outputs."
    return require_shape(action, data_action.shape, reader=reader, what="the actor's action", hint=hint)


def require_flags(tensordict: TensorDictBase, keys: Iterable[NestedKey], reader: str) -> None:
    """Require that all flags that are present are boolean.

    Other dtypes give wrong targets without an error: ``1 - terminated`` wraps around for ``uint8``, and
    ``~terminated`` is -2 or -1 for ``int64``.

    Args:
        tensordict (TensorDictBase): the batch. keys: keys of the flags. reader (str): the loss that reads them.

    Raises:
        ValueError: with the first flag that is not boolean and how to convert it.

    Examples:
        >>> from tensordict import TensorDict
        >>> require_flags(TensorDict({"done": torch.zeros(3, 1)}, [3]), ["done"], "IQLLoss")
        Traceback (most recent call last):
        ...
        ValueError: IQLLoss: 'done' has the dtype torch.float32, expected torch.bool; convert it with \
td['done'] = td['done'].bool().
    """
    for key in keys:
        value = tensordict.get(key, None)
        if value is not None and value.dtype is not torch.bool:
            raise ValueError(
                f"{reader}: {key!r} has the dtype {value.dtype}, expected torch.bool; convert it with "
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
    """Validate a batch of transitions and return its batch shape ``[*]``.

    Args:
        tensordict (TensorDictBase): the batch.
        entries: keys to check. optional: those of them that may be missing.
        action (NestedKey): ``[*, actions]``; determines the batch shape.
        columns: keys whose entries must be ``[*, 1]``: reward and the flags.
        flags: those of them that must be boolean.
        reader (str): the loss that reads them.

    Raises:
        KeyError: if an entry is missing.
        ValueError: if one of ``columns`` is not ``[*, 1]``, or one of ``flags`` is not boolean.
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
