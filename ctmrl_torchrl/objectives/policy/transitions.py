"""Shared code of policy losses: transition keys, input checks, and the choice of a value estimator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

from tensordict import TensorDictBase
from tensordict.nn import TensorDictModuleBase
from tensordict.utils import NestedKey
from torch import Tensor
from torchrl.objectives import LossModule, ValueEstimators
from torchrl.objectives.utils import dispatch_value_estimator
from torchrl.objectives.value import ValueEstimatorBase

from ctmrl_torchrl.modules.keys import join_key, read
from ctmrl_torchrl.objectives.checks import require_shape, require_transitions
from ctmrl_torchrl.objectives.key_names import NamedKeys


class TransitionLoss(NamedKeys, LossModule):
    """Base class of losses with ``gamma``, actor, critics and value network that learn from transitions.

    Keys: a subclass accepts ``action``, ``reward``, ``done``, ``terminated`` and the output of its value
    network, whose field is given by ``value_field``.
    """

    default_value_estimator = ValueEstimators.TD0
    value_field = "state_value"
    gamma: float
    if TYPE_CHECKING:  # what LossModule makes of the networks and keys at run time
        actor_network: Any
        qvalue_network: Any
        value_network: Any
        actor_network_params: Any
        qvalue_network_params: Any
        _stacked_qvalue: Any
        in_keys: list[NestedKey]
        _value_estimator: Any

        @property
        def tensor_keys(self) -> Any:
            """The keys, under the names of the subclass's fields."""

    def critics(self) -> list[TensorDictModuleBase]:
        """Every network that reads an action."""
        return [self.qvalue_network]

    def _set_in_keys(self) -> None:
        keys = self.tensor_keys
        self._outcome_keys = [join_key("next", key) for key in (keys.reward, keys.done, keys.terminated)]
        self._judged = all(keys.action in critic.in_keys for critic in self.critics())
        candidates = [
            keys.action,
            *self._outcome_keys,
            *self.actor_network.in_keys,
            *(key for critic in self.critics() for key in critic.in_keys),
            *self.value_network.in_keys,
            *(join_key("next", key) for key in self.value_network.in_keys),
        ]
        self.in_keys = list(dict.fromkeys(candidates))

    def _estimator_keys(self) -> dict[str, NestedKey]:
        names = {"value": self.value_field} | {name: name for name in ("reward", "done", "terminated")}
        chosen = {name: getattr(self.tensor_keys, field) for name, field in names.items()}
        return {"value_target": "value_target"} | chosen

    def _forward_value_estimator_keys(self, **kwargs: NestedKey) -> None:
        if self._value_estimator is not None:
            self._value_estimator.set_keys(**self._estimator_keys())
        self._set_in_keys()

    def make_value_estimator(
        self,
        value_type: ValueEstimators | str | ValueEstimatorBase | type[ValueEstimatorBase] | None = None,
        **hyperparams: Any,
    ) -> Self:
        """Choose the estimator of Q targets.

        TD(0) needs single transitions. TD(1) and TD(lambda) sum rewards along the last batch dimension, which
        must hold consecutive steps of one episode rather than random transitions.

        Args:
            value_type: TD0, TD1 or TDLambda, by member or name (``"td0"``), or a custom estimator as a class
                or an instance. Default: TD0.
            hyperparams: hyperparameters of the estimator; ``gamma`` defaults to the loss's discount.

        Returns:
            the loss itself.

        Raises:
            NotImplementedError: for an estimator of advantages (GAE, VTrace).
        """
        own_class = isinstance(value_type, type) and issubclass(value_type, ValueEstimatorBase)
        if own_class or isinstance(value_type, ValueEstimatorBase):
            if own_class:
                hyperparams = {"gamma": self.gamma, "value_network": self.value_network} | hyperparams
            super().make_value_estimator(cast(Any, value_type), **hyperparams)
            self._value_estimator.set_keys(**self._estimator_keys())
            return self
        dispatch_value_estimator(
            self,
            value_type or self.default_value_estimator,
            supported=(ValueEstimators.TD0, ValueEstimators.TD1, ValueEstimators.TDLambda),
            tensor_keys=self._estimator_keys(),
            **hyperparams,
        )
        return self

    def _require_transitions(self, tensordict: TensorDictBase) -> tuple[int, ...]:
        """Check the batch and return its shape."""
        name, action = type(self).__name__, self.tensor_keys.action
        if not self._judged:
            raise ValueError(
                f"{name}: a critic does not read the action {action!r}, so it cannot evaluate the policy; "
                "call set_keys(action=...) with the key that the critics read, or build them with this key."
            )
        return require_transitions(
            tensordict,
            self.in_keys,
            action=action,
            columns=self._outcome_keys,
            flags=self._outcome_keys[1:],
            optional=self._outcome_keys[-1:],
            reader=name,
        )

    def _column(self, written: TensorDictBase, key: NestedKey, expected: tuple[int | str, ...]) -> Tensor:
        """A critic's output without its last dimension."""
        name, hint = type(self).__name__, "a critic must have one output."
        value = read(written, key, name)
        return require_shape(value, (*expected, 1), reader=name, what=repr(key), hint=hint).squeeze(-1)
