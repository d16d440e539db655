"""What every representation loss is: a LossModule with a few questions to answer, and its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.problem import Problem


class RepresentationLoss(LossModule):
    """Losses of the contexts that :class:`~ctmrl_torchrl.objectives.MetaLoss` has encoded.

    ``forward`` reads ``task_context`` ``[T, d]`` and what its ``in_keys`` say. The properties here tell
    ``MetaLoss`` what else to prepare; a loss overrides those that it needs.

    Accepted keys, as far as a loss has them: ``task_context``, ``task_context_positive``,
    ``task_context_reconstructed``, ``transition_contexts``. ``MetaLoss`` hands the contexts on under these
    names, and renames them along.

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
    def uses_positive(self) -> bool:
        """Whether the second context draw is needed now."""
        return False

    @property
    def uses_transition_contexts(self) -> bool:
        """Whether what the encoder makes of every single transition, ``[T, L, d]``, is needed now."""
        return False

    @property
    def augmented_keys(self) -> list[NestedKey]:
        """What :meth:`augment` reads of a context; empty where contexts are encoded as they are."""
        return []

    @property
    def reconstructed_keys(self) -> list[NestedKey]:
        """What :meth:`reconstruct` reads of a context; empty where nothing is encoded again now."""
        return []

    def augment(self, context: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions to encode instead of ``context``, given the tasks' contexts from the other draw."""
        return context

    def reconstruct(self, context: TensorDictBase, task_context: Tensor) -> TensorDictBase:
        """The transitions ``[T, L]`` to encode besides, as ``task_context_reconstructed``."""
        return context

    @property
    def functional(self) -> bool:
        """False: the modules keep their own parameters; none has a target, and others act with them."""
        return False

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """Nothing to do: ``in_keys`` follow the keys, and there is no value estimator."""

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """Refuse: nothing here is bootstrapped."""
        raise NotImplementedError(
            f"{type(self).__name__} estimates no value; choose the value estimator of the policy loss."
        )


@dataclass
class RepresentationConfig:
    """Base of the representation configurations: one subclass beside each loss.

    Args:
        name (str): the loss's name, as chosen by ``representation=NAME``.

    Attributes:
        uses_transition_contexts: whether the loss is ever shown contexts of single transitions.

    Examples:
        >>> class Config(RepresentationConfig):
        ...     def build(self, problem: Problem, context_dim: int) -> LossModule:
        ...         return LossModule()
        >>> Config(name="mine").name
        'mine'
    """

    uses_transition_contexts: ClassVar[bool] = False

    name: str = "none"

    def build(self, problem: Problem, context_dim: int) -> RepresentationLoss:
        """Build the loss with all of its modules."""
        raise ValueError(
            f"representation={self.name!r} names no representation loss; choose a method (method=ctmrl) or "
            "one of the registered representation configurations."
        )
