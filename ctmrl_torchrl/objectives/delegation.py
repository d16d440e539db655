"""What other people's pipelines ask of a loss, answered by the policy loss inside a composed one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tensordict.nn import TensorDictModuleBase
from torch import nn
from torchrl.objectives import LossModule
from torchrl.objectives.value import ValueEstimatorBase


def _is_target(name: str) -> bool:
    return name.startswith("target_") and name.endswith("_params")


class PolicyDelegation(LossModule):
    """A loss that holds a policy loss as ``policy`` and passes for one.

    ``SoftUpdate(loss)`` and ``HardUpdate(loss)`` find the targets of the policy loss (TorchRL's updaters look
    among a loss's own children), ``loss.actor_network`` and all ``*_params`` are the policy loss's, and so is
    the value estimator. ``reset_parameters_recursive`` reaches every child.
    """

    policy: LossModule

    def _adopt(self, policy: LossModule) -> None:
        self.policy = policy
        # One record for both, so that an updater made for either is known to either.
        self._has_update_associated = policy._has_update_associated

    def __getattr__(self, item: str) -> Any:
        """``NAME_params`` and ``target_NAME_params`` of the policy loss, beside what every loss has."""
        if item.endswith("_params"):
            policy = self.__dict__["_modules"].get("policy")
            if policy is not None and item.removeprefix("target_") in policy._modules:
                return getattr(policy, item)
        return super().__getattr__(item)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """The children, and the targets of the policy loss."""
        yield from super().named_children()
        yield from ((name, child) for name, child in self.policy.named_children() if _is_target(name))

    def children(self) -> Iterator[nn.Module]:
        """The children alone: what walks the tree (``to``, ``train``) must meet the targets only once."""
        yield from (child for _, child in super().named_children())

    @property
    def functional(self) -> bool:
        """False: sub-losses and encoder keep their own parameters."""
        return False

    @property
    def actor_network(self) -> TensorDictModuleBase:
        """The policy loss's actor."""
        return self.policy.actor_network

    @property
    def value_estimator(self) -> ValueEstimatorBase:
        """The policy loss's value estimator."""
        return self.policy.value_estimator

    def make_value_estimator(self, value_type: Any = None, **hyperparams: Any) -> PolicyDelegation:
        """Choose the value estimator of the policy loss; see there. Returns this loss."""
        self.policy.make_value_estimator(value_type, **hyperparams)
        return self

    def set_vmap_randomness(self, value: str) -> None:
        """Say how the policy loss's critics draw random numbers: ``error``, ``same``, ``different``."""
        self.policy.set_vmap_randomness(value)

    def reset_parameters_recursive(self) -> None:
        """Draw all parameters anew, targets included."""
        for child in self.children():
            child.reset_parameters_recursive()
