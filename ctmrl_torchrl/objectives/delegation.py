"""Delegates the TorchRL loss interface of a composed loss to the policy loss inside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn
from torchrl.objectives import LossModule
from torchrl.objectives.value import ValueEstimatorBase

from ctmrl_torchrl.objectives.key_names import NamedKeys


def _is_target(name: str) -> bool:
    return name.startswith("target_") and name.endswith("_params")


class PolicyDelegation(NamedKeys, LossModule):
    """A loss that holds a policy loss as ``policy`` and exposes its interface.

    ``SoftUpdate(loss)`` and ``HardUpdate(loss)`` find the policy loss's target parameters, although TorchRL's
    updaters only search a loss's direct children. ``loss.actor_network``, all ``*_params`` and the value
    estimator are those of the policy loss. ``reset_parameters_recursive`` reaches every child.
    """

    policy: LossModule

    def _adopt(self, policy: LossModule) -> None:
        self.policy = policy
        # Both share one record, so that an updater created for either is known to both.
        self._has_update_associated = policy._has_update_associated

    def __getattr__(self, item: str) -> Any:
        """Attributes of every loss, plus ``NAME_params`` and ``target_NAME_params`` of the policy loss."""
        if item.endswith("_params"):
            policy = self.__dict__["_modules"].get("policy")
            if policy is not None and item.removeprefix("target_") in policy._modules:
                return getattr(policy, item)
        return super().__getattr__(item)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The children, plus the target parameters of the policy loss."""
        yield from super().named_children()
        yield from ((name, child) for name, child in self.policy.named_children() if _is_target(name))

    def children(self) -> Iterator[nn.Module]:
        """Only the children: ``to``, ``train`` and others must visit the target parameters once."""
        yield from (child for _, child in super().named_children())

    @property
    def functional(self) -> bool:
        """False, because sub-losses and encoder keep their parameters."""
        return False

    @property
    def actor_network(self) -> Any:
        """The policy loss's actor."""
        return self.policy.actor_network

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """The policy loss's value estimator."""
        return self.policy.value_estimator

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> PolicyDelegation:
        """Set the value estimator of the policy loss and return this loss; see the policy loss for details."""
        self.policy.make_value_estimator(value_type, **hyperparams)
        return self

    def set_vmap_randomness(self, value: str) -> None:
        """Set the vmap randomness of the policy loss's critics: ``error``, ``same`` or ``different``."""
        self.policy.set_vmap_randomness(value)

    def reset_parameters_recursive(self) -> None:
        """Reinitialize all parameters, including the targets."""
        for child in self.children():
            cast(LossModule, child).reset_parameters_recursive()
