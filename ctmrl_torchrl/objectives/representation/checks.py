"""Shape checks of the contexts that a representation loss receives."""

from __future__ import annotations

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives.checks import require_shape


def require_contexts(tensordict: TensorDictBase, key: NestedKey, *, latent_size: int, reader: str) -> Tensor:
    """Validate the size of the task contexts ``[T, d]`` against the codebook and return them.

    Raises:
        KeyError: if they are missing.
        ValueError: if rank or size differs.
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
    """Require a second context of every task and, if task ids are present, one id per task.

    Raises:
        KeyError: if the second draw is missing.
        ValueError: if shapes differ from the first draw's.
    """
    second, number = read(tensordict, positive, reader), tensordict.get(task_id, None)
    hint = "a second draw of the same tasks."
    require_shape(second, context.shape, reader=reader, what=repr(positive), hint=hint)
    if number is not None:
        hint = "one id per task."
        require_shape(number, context.shape[:1], reader=reader, what=repr(task_id), hint=hint)
