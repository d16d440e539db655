"""Settings for sampling contexts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

from ctmrl_torchrl.rules import is_number, is_whole


@dataclass(frozen=True)
class ContextDraw:
    """Defines how a context is sampled.

    Args:
        kind: ``"trajectories"``: complete trajectories of a few behaviors, as at test time;
            ``"transitions"``: single transitions from the task's data, as in the released code.
        length: transitions per context, for ``kind="transitions"``.
        trajectories: minimum and maximum number of trajectories in a context, sampled uniformly per task.
            Contexts are padded to ``most * horizon`` transitions, with ``("context", "mask")`` False.
        behaviours: minimum and maximum number of different snapshots in a context (or all snapshots of a task
            with fewer); each trajectory comes from a random one of them. None: any trajectory.
        near_random_fraction: probability with which the first behavior is one of the near-random snapshots;
            otherwise it is any snapshot of the task.
        near_random_snapshots: number of a task's lowest snapshot ids that count as near-random.
        different: whether all trajectories of a task in one batch are different, within a context and between
            the two contexts; requires ``kind="trajectories"`` and ``behaviours=None``.

    Raises:
        ValueError: with the field that is out of range.

    Examples:
        >>> ContextDraw(trajectories=(5, 20)).context_length(horizon=20)
        400
        >>> ContextDraw(kind="transitions", length=256).context_length(horizon=20)
        256
    """

    kind: Literal["trajectories", "transitions"] = "trajectories"
    length: int = 400
    trajectories: tuple[int, int] = (5, 20)
    behaviours: tuple[int, int] | None = (1, 3)
    near_random_fraction: float = 0.5
    near_random_snapshots: int = 1
    different: bool = False

    def __post_init__(self) -> None:
        if self.kind not in ("trajectories", "transitions"):
            raise ValueError(f'ContextDraw.kind must be "trajectories" or "transitions", got {self.kind!r}')
        if self.different and (self.kind != "trajectories" or self.behaviours is not None):
            raise ValueError(
                "ContextDraw.different needs kind='trajectories' and behaviours=None: complete trajectories, "
                "sampled from all of a task"
            )
        for name in ("length", "near_random_snapshots"):
            value = getattr(self, name)
            if not is_whole(value) or value < 1:
                raise ValueError(f"ContextDraw.{name} must be an integer of at least 1, got {value!r}")
        for name in ("trajectories", "behaviours"):
            bounds: Any = getattr(self, name)
            if bounds is None and name == "behaviours":
                continue
            try:
                least, most = cast(Any, bounds)
                ok = 1 <= least <= most and int(least) == least and int(most) == most
                ok = ok and not any(isinstance(each, bool) for each in (least, most))
            except (TypeError, ValueError, OverflowError):
                ok = False
            if not ok:
                raise ValueError(
                    f"ContextDraw.{name} must be (least, most), 1 <= least <= most, got {bounds!r}"
                )
            object.__setattr__(self, name, (int(least), int(most)))
        fraction = self.near_random_fraction
        if not is_number(fraction) or not 0 <= fraction <= 1:
            raise ValueError(f"ContextDraw.near_random_fraction must be in [0, 1], got {fraction!r}")

    def context_length(self, horizon: int) -> int:
        """Return the padded number of transitions L of a context."""
        return self.length if self.kind == "transitions" else self.trajectories[1] * horizon
