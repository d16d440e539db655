"""Checks of what a representation loss receives, and what it gives to its decoders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
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


def by_name(module: TensorDictModuleBase, keys: Any, inputs: dict[str, Tensor]) -> dict[NestedKey, Tensor]:
    """The inputs of a decoder under its in-keys, in whatever order it names them.

    Args:
        module: the decoder.
        keys: the tensor keys of the loss.
        inputs: tensors by the name of their key, in the usual order.

    Returns:
        by the keys of the loss or their defaults, if the decoder reads (some of) these, otherwise by position.

    Examples:
        >>> import torch
        >>> from tensordict.nn import TensorDictModule
        >>> from ctmrl_torchrl.objectives.representation.prediction import PredictionKeys
        >>> decoder = TensorDictModule(torch.nn.Bilinear(1, 1, 1), ["action", "observation"], ["reward"])
        >>> inputs = {"observation": torch.zeros(1), "action": torch.ones(1)}
        >>> by_name(decoder, PredictionKeys(), inputs)
        {'action': tensor([1.]), 'observation': tensor([0.])}
    """
    known = known_entries(module.in_keys, (keys, type(keys)()), inputs)
    return dict(zip(module.in_keys, inputs.values(), strict=True)) if known is None else known


def known_entries(
    in_keys: Sequence[NestedKey], names: Iterable[Any], inputs: dict[str, Tensor]
) -> dict[NestedKey, Tensor] | None:
    """The inputs of a network under its in-keys, if all of these are known by one set of names.

    Args:
        in_keys: what the network reads.
        names: sets of names, such as the tensor keys of the loss and then their defaults.
        inputs: tensors by the name of their key.

    Examples:
        >>> from ctmrl_torchrl.objectives.representation.prediction import PredictionKeys
        >>> names = (PredictionKeys(observation="state"), PredictionKeys())
        >>> known_entries(["observation"], names, {"observation": 0.0, "action": 1.0})
        {'observation': 0.0}
        >>> known_entries(["position"], names, {"observation": 0.0, "action": 1.0}) is None
        True
    """
    for each in names:
        known = {getattr(each, name): value for name, value in inputs.items()}
        if set(in_keys) <= set(known):
            return {key: known[key] for key in in_keys}
    return None
