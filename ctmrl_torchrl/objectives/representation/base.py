"""What every representation loss is: a LossModule, and the one place where its contexts come from."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NoReturn

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.objectives.encoding import ContextEncoding


class RepresentationLoss(LossModule):
    """Losses of the contexts that :class:`~ctmrl_torchrl.objectives.MetaLoss` has encoded.

    ``forward`` reads ``task_context`` ``[T, d]`` and what its ``in_keys`` say. :meth:`contexts` is the place
    where contexts come from: a loss overrides it to encode a second draw, to change what is encoded, or to
    encode again what it has predicted. :attr:`context_keys` names the draws that it reads.

    ``MetaLoss`` hands the contexts on under the names of its own keys and renames those of the loss along, as
    far as it has them: ``context``, ``context_positive``, ``task_context``, ``task_context_positive``,
    ``task_context_reconstructed``, ``transition_contexts``, ``task_id``.

    Examples:
        >>> from dataclasses import dataclass
        >>> from tensordict import TensorDict
        >>> class SmallContexts(RepresentationLoss):
        ...     @dataclass
        ...     class _AcceptedKeys:
        ...         task_context: NestedKey = "task_context"
        ...
        ...     default_keys = _AcceptedKeys
        ...     out_keys = ["loss_size"]
        ...
        ...     @property
        ...     def in_keys(self):
        ...         return [self.tensor_keys.task_context]
        ...
        ...     def forward(self, tensordict):
        ...         size = tensordict.get(self.tensor_keys.task_context).square().mean()
        ...         return TensorDict({"loss_size": size}, [])
        >>> SmallContexts()(TensorDict({"task_context": Tensor([[1.0, 3.0]])}, [1]))["loss_size"]
        tensor(5.)
    """

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """The context draws that are needed now, and what :meth:`contexts` reads of each.

        The draws are ``"context"`` and ``"context_positive"``; the lists hold keys below them, besides those
        that the encoder reads.
        """
        return {"context": []}

    def contexts(self, encoding: ContextEncoding) -> dict[str, Tensor]:
        """Encode what this loss learns from.

        Args:
            encoding: the draws of the meta-batch, and the encoder.

        Returns:
            tensors by name: ``task_context`` ``[T, d]``, which the policy acts on too, and any of the other
            names that ``MetaLoss`` hands on. Contexts of single transitions go with the ``context_mask`` of
            those that count.
        """
        return encoding(encoding.draw("context")).entries()

    @property
    def reward_predictor(self) -> TensorDictModuleBase | None:
        """What predicts rewards from observation, action and context, for whoever asks about a context."""
        return None

    @property
    def phase(self) -> Hashable:
        """What decides which terms are computed; stacked agents must be in the same phase."""
        return None

    @property
    def functional(self) -> bool:
        """False: the modules keep their own parameters; none has a target, and others act with them."""
        return False

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """Nothing to do: ``in_keys`` follow the keys, and there is no value estimator."""

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """Refuse: nothing here is bootstrapped."""
        raise NotImplementedError(  # as TorchRL's losses do
            f"{type(self).__name__} estimates no value; choose the value estimator of the policy loss."
        )


class NoRepresentationLoss(RepresentationLoss):
    """No term at all: the encoder is fixed, or learns from the critic alone.

    Examples:
        >>> NoRepresentationLoss()(TensorDict({}, [])).is_empty()
        True
    """

    out_keys: list[str] = []
    in_keys: list[NestedKey] = []

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Compute nothing."""
        return TensorDict({}, [])
