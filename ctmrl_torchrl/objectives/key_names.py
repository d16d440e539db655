"""Errors of ``set_keys`` that name the nearest key."""

from __future__ import annotations

from typing import Any, cast

from tensordict.utils import NestedKey

from ctmrl_torchrl.registry import nearest


class NamedKeys:
    """A mixin, before TorchRL's ``LossModule``, whose ``set_keys`` explains an unknown name.

    Examples:
        >>> from ctmrl_torchrl.objectives import MetricLoss
        >>> MetricLoss().set_keys(task_contxt="z")
        Traceback (most recent call last):
        ...
        ValueError: MetricLoss.set_keys: task_contxt is not an accepted tensordict key. Did you mean \
'task_context'? It has task_context, task_id.
    """

    def set_keys(self, **kwargs: NestedKey | None) -> None:
        """Rename keys; None restores the default.

        Raises:
            ValueError: for a key that this loss does not have.
        """
        own: Any = self
        accepted = [str(name) for name in own._AcceptedKeys.__dataclass_fields__]
        for name in kwargs:
            if name in accepted:
                continue
            inner = [
                part
                for part in ("representation", "policy")
                if hasattr(getattr(getattr(own, part, None), "tensor_keys", None), name)
            ]
            hint = (
                f" It is a key of loss.{inner[0]}: call loss.{inner[0]}.set_keys({name}=...)."
                if inner
                else ""
            )
            raise ValueError(
                f"{type(self).__name__}.set_keys: {name} is not an accepted tensordict key."
                f"{hint or nearest(name, accepted)} It has {', '.join(accepted)}."
            )
        cast(Any, super()).set_keys(**kwargs)
