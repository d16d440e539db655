"""Checks of the contexts that a representation loss is given, by shape alone."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives.checks import require_shape


def require_contexts(tensordict: TensorDictBase, key: NestedKey, *, latent_size: int, reader: str) -> Tensor:
    """The task contexts ``[T, d]``, if their size is the codebook's.

    Raises:
        KeyError: if there are none.
        ValueError: if they have another rank or size.
    """
    context = read(tensordict, key, reader)
    require_shape(context, ("T", "d"), reader=reader, what=repr(key), hint="one context per task.")
    if context.shape[-1] != latent_size:
        raise ValueError(
            f"{reader}: {key!r} has latent size {context.shape[-1]} but the codes of the codebook have "
            f"{latent_size}; build encoder and codebook with the same context_dim."
        )
    return context


def require_second_draw(
    tensordict: TensorDictBase,
    context: Tensor,
    *,
    positive: NestedKey,
    task_id: NestedKey,
    reader: str,
) -> None:
    """Make sure that there is a second context of every task and, if tasks are numbered, one number each.

    Raises:
        KeyError: if there is no second draw.
        ValueError: if shapes differ from the first draw's.
    """
    second, number = read(tensordict, positive, reader), tensordict.get(task_id, None)
    hint = "a second draw of the same tasks."
    require_shape(second, context.shape, reader=reader, what=repr(positive), hint=hint)
    if number is not None:
        hint = "one number per task."
        require_shape(number, context.shape[:1], reader=reader, what=repr(task_id), hint=hint)
