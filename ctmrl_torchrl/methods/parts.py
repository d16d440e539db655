"""Parts: what a method does around an update. The trainer calls their moments and knows no method by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tensordict import TensorDictBase
from tensordict.utils import NestedKey
from torch import Tensor

from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.problem import Problem

if TYPE_CHECKING:
    from ctmrl_torchrl.data import TaskDataset


@dataclass(frozen=True)
class Setting:
    """What parts are handed once, when they are made.

    Args:
        loss (MetaLoss): the agent.
        problem (Problem): sizes, keys and statistics.
        dataset (TaskDataset): the offline data of all tasks.
        train_ids (sequence of int): the tasks to learn from.
        draw_contexts (callable): a meta-batch with one context of every training task, on ``device``.
        updates (int): gradient updates in all.
        representation_updates (float): those in which the representation learns.
        seed (int): of the run.
        generator (torch.Generator): of all sampling, shared with the replay buffer and checkpointed with it.
        device (torch.device): of the loss.
        context_dim (int): d, the size of a task context.
    """

    loss: MetaLoss
    problem: Problem
    dataset: TaskDataset
    train_ids: Sequence[int]
    draw_contexts: Callable[[], TensorDictBase]
    updates: int
    representation_updates: float
    seed: int
    generator: torch.Generator
    device: torch.device
    context_dim: int = 0


@dataclass(frozen=True)
class Drawing:
    """What parts are handed to draw from at the end of a run.

    Args:
        folder (Path): where pictures go.
        runs (mapping): ``{split: {protocol: TensorDict [tasks, repeats]}}``.
        summary (mapping): the run's summary.
        subtitle (str): second line of every picture.
    """

    folder: Path
    runs: Mapping[str, Mapping[str, TensorDictBase]]
    summary: Mapping[str, Any]
    subtitle: str


class Part:
    """Base of the parts of a method: every moment is optional and does nothing by default.

    In the order of an update: :meth:`before_update`, :meth:`batch`, :meth:`inner_steps`, then the trainer's
    gradient step and target update, then :meth:`after_update`. :meth:`prepare` comes before the first update.

    Attributes:
        name (str): under which the state is kept in checkpoints; unique among the parts of a run.
        stackable (bool): whether several seeds can be trained as one computation with this part.
        metric_groups (mapping): output of the losses to the group under which ``metrics.csv`` has it.
        in_keys (sequence of NestedKey): entries of the meta-batch that the part reads besides those that the
            losses read.

    Examples:
        >>> class Counter(Part):
        ...     name, updates = "counter", 0
        ...     def after_update(self, update):
        ...         self.updates = update + 1
        ...     def state_dict(self):
        ...         return {"updates": self.updates}
        ...     def load_state_dict(self, state):
        ...         self.updates = state["updates"]
        >>> part = Counter()
        >>> part.after_update(0)
        >>> part.state_dict()
        {'updates': 1}
    """

    name: str = "part"
    stackable: bool = True
    metric_groups: Mapping[str, str] = {}
    in_keys: Sequence[NestedKey] = ()

    def prepare(self, checkpoint: Callable[[], None]) -> None:
        """Do what comes before the first update, such as pretraining.

        A resumed run calls this again after :meth:`load_state_dict`: go on from the state that was loaded,
        and return at once if everything is done.

        Args:
            checkpoint: writes a checkpoint with the state of all parts; call it from time to time.
        """

    def before_update(self, update: int) -> None:
        """Called with the number of the coming update, from 0."""

    def batch(self, batch: TensorDictBase) -> TensorDictBase:
        """The meta-batch that the losses read: the sampled one, added to or replaced."""
        return batch

    def inner_steps(self, batch: TensorDictBase, contexts: TensorDictBase) -> None:
        """Steps of optimizers of the part's own, such as those of adversaries.

        Args:
            batch: what :meth:`batch` returned.
            contexts: ``task_context`` ``[T, d]`` and, where the encoder writes them, ``transition_contexts``
                ``[T, L, d]`` with their ``context_mask``, without gradient.
        """

    def after_update(self, update: int) -> None:
        """Called with the number of the update that has been made, from 0."""

    def candidates(self) -> Tensor | None:
        """Contexts ``[N, d]`` that an agent may try on an unknown task, or None."""
        return None

    def protocol_options(self) -> dict[str, Any]:
        """What the part gives adaptation protocols, as
        :attr:`ProtocolSettings.options <ctmrl_torchrl.collectors.ProtocolSettings>`, by name.

        Asked when a meta-test begins. What is given here is announced by
        :attr:`RepresentationConfig.protocol_options`, so that settings can be checked before there is a part.
        """
        return {}

    def milestones(self) -> dict[str, float]:
        """Updates at which something begins or ends, by name, for the figures."""
        return {}

    def summary(self) -> dict[str, Any]:
        """What the part adds to ``summary.json``, under names of its own."""
        return {}

    def draw(self, drawing: Drawing) -> None:
        """Draw pictures of the part's own into ``drawing.folder``."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""


@dataclass
class Parts:
    """The parts of a run, called in order; see :class:`Part` for the moments.

    Raises:
        ValueError: if two parts have the same name.

    Examples:
        >>> Parts([]).candidates() is None
        True
    """

    parts: Sequence[Part] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [part.name for part in self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"Several parts are named {', '.join(twice)}; give each part a name of its own.")
        self._inner = [part for part in self.parts if type(part).inner_steps is not Part.inner_steps]

    @property
    def stackable(self) -> bool:
        """Whether all parts are."""
        return all(part.stackable for part in self.parts)

    @property
    def metric_groups(self) -> dict[str, str]:
        """Those of all parts."""
        return {name: group for part in self.parts for name, group in part.metric_groups.items()}

    @property
    def in_keys(self) -> list[NestedKey]:
        """What the parts read of the meta-batch besides the losses."""
        return [key for part in self.parts for key in part.in_keys]

    def prepare(self, checkpoint: Callable[[], None]) -> None:
        """See :meth:`Part.prepare`."""
        for part in self.parts:
            part.prepare(checkpoint)

    def before_update(self, update: int) -> None:
        """See :meth:`Part.before_update`."""
        for part in self.parts:
            part.before_update(update)

    def batch(self, batch: TensorDictBase) -> TensorDictBase:
        """See :meth:`Part.batch`; each part is given what the one before it returned."""
        for part in self.parts:
            batch = part.batch(batch)
        return batch

    def inner_steps(self, batch: TensorDictBase, contexts: Callable[[], TensorDictBase]) -> None:
        """See :meth:`Part.inner_steps`; ``contexts`` is only called if some part has inner steps."""
        if self._inner:
            encoded = contexts()
            for part in self._inner:
                part.inner_steps(batch, encoded)

    def after_update(self, update: int) -> None:
        """See :meth:`Part.after_update`."""
        for part in self.parts:
            part.after_update(update)

    def candidates(self) -> Tensor | None:
        """Those of the first part that has some."""
        found = (part.candidates() for part in self.parts)
        return next((candidates for candidates in found if candidates is not None), None)

    def protocol_options(self) -> dict[str, Any]:
        """Those of all parts."""
        return {name: value for part in self.parts for name, value in part.protocol_options().items()}

    def milestones(self) -> dict[str, float]:
        """Those of all parts."""
        return {name: update for part in self.parts for name, update in part.milestones().items()}

    def summary(self) -> dict[str, Any]:
        """Those of all parts."""
        return {name: value for part in self.parts for name, value in part.summary().items()}

    def draw(self, drawing: Drawing) -> None:
        """See :meth:`Part.draw`."""
        for part in self.parts:
            part.draw(drawing)

    def state_dict(self) -> dict[str, Any]:
        """State of every part, by its name."""
        return {part.name: part.state_dict() for part in self.parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        if set(state) != {part.name for part in self.parts}:
            raise ValueError(
                f"the checkpoint has the parts {sorted(state)}, this run {sorted(p.name for p in self.parts)}"
            )
        for part in self.parts:
            part.load_state_dict(state[part.name])
