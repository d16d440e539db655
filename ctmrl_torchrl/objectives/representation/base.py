"""Base class of representation losses: a LossModule that also computes its contexts."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar, NoReturn, cast

from tensordict import TensorDict, TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule

from ctmrl_torchrl.objectives.encoding import ContextEncoding
from ctmrl_torchrl.objectives.key_names import NamedKeys


class RepresentationLoss(NamedKeys, LossModule):
    """Base class of losses on the contexts that :class:`~ctmrl_torchrl.objectives.MetaLoss` encodes.

    ``forward`` reads ``task_context`` ``[T, d]`` and its other ``in_keys``. :meth:`contexts` computes the
    contexts: a loss overrides it to encode a second draw, to modify the input of the encoder, or to encode its
    own predictions. :attr:`context_keys` names the draws that it reads.

    ``MetaLoss`` passes the contexts under its own key names and renames the following keys of the loss, if they
    exist: ``context``, ``context_positive``, ``task_context``, ``task_context_positive``,
    ``task_context_reconstructed``, ``transition_contexts``, ``task_id``.

    Attributes:
        curve_titles (mapping): titles of its losses in figures, by name; without one the title is the name.
        main_curve (str): the most important loss in figures; empty for the sum of all.

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

    curve_titles: ClassVar[Mapping[str, str]] = {}
    main_curve: ClassVar[str] = ""

    @property
    def context_keys(self) -> dict[str, list[NestedKey]]:
        """The context draws needed in the current phase, with the keys that :meth:`contexts` reads from each.

        The draws are ``"context"`` and ``"context_positive"``. The lists hold keys inside them, in addition to
        the encoder's in-keys.
        """
        return {"context": []}

    def contexts(self, encoding: ContextEncoding) -> dict[str, Tensor]:
        """Encode the contexts for this loss.

        Args:
            encoding: the draws of the meta-batch, bound to the encoder.

        Returns:
            tensors by name: ``task_context`` ``[T, d]``, which the policy also uses, and any of the other names
            that ``MetaLoss`` passes on. Per-transition contexts come with the ``context_mask`` of valid
            transitions.
        """
        return encoding(encoding.draw("context")).entries()

    @property
    def reward_predictor(self) -> TensorDictModuleBase | None:
        """The predictor of rewards from observation, action and context, for use by protocols."""
        return None

    @property
    def phase(self) -> Hashable:
        """Values that determine which terms are computed; stacked agents must be in the same phase."""
        return None

    @property
    def functional(self) -> bool:
        """False: the modules keep their parameters, because none has a target and others use the same modules."""
        return False

    def reset_parameters_recursive(self, *args: Any, **kwargs: Any) -> None:
        """Reinitialize the loss's own modules; one with other needs overrides this."""
        for child in self.children():
            if hasattr(child, "reset_parameters_recursive") and not hasattr(child, "reset_parameters"):
                cast(Any, child).reset_parameters_recursive()
                continue
            for module in child.modules():
                if hasattr(module, "reset_parameters"):
                    cast(Any, module).reset_parameters()

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        """Do nothing: ``in_keys`` follow the keys, and there is no value estimator."""

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> NoReturn:
        """Raise an error, because representation losses do not bootstrap."""
        raise NotImplementedError(  # like TorchRL's losses
            f"{type(self).__name__} has no value estimator; set the value estimator of the policy loss."
        )


class NoRepresentationLoss(RepresentationLoss):
    """A loss without terms: the encoder is fixed, or learns only from the critic.

    Examples:
        >>> NoRepresentationLoss()(TensorDict({}, [])).is_empty()
        True
    """

    out_keys: list[str] = []
    in_keys: list[NestedKey] = []

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return an empty TensorDict."""
        return TensorDict({}, [])
