"""Parts: hooks of a method around an update. The trainer calls the hooks without knowing the method."""

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
    """The run's components that a part receives when it is created.

    Args:
        loss (MetaLoss): the agent.
        problem (Problem): sizes, keys and statistics.
        dataset (TaskDataset): the offline data of all tasks.
        train_ids (sequence of int): ids of the training tasks.
        draw_contexts (callable): returns a meta-batch with one context per training task, on ``device``.
        updates (int): total number of gradient updates.
        representation_updates (float): number of updates in which the representation learns.
        seed (int): seed of the run.
        generator (torch.Generator): generator of all sampling, shared and checkpointed with the replay buffer.
        device (torch.device): device of the loss.
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
    """The inputs for a part's figures at the end of a run.

    Args:
        folder (Path): output folder.
        runs (mapping): ``{split: {protocol: TensorDict [tasks, repeats]}}``.
        summary (mapping): the run's summary.
        subtitle (str): second title line of every figure.
    """

    folder: Path
    runs: Mapping[str, Mapping[str, TensorDictBase]]
    summary: Mapping[str, Any]
    subtitle: str


class Part:
    """Base class of a method's parts. Every hook is optional and does nothing by default.

    Each update calls :meth:`before_update`, :meth:`batch` and :meth:`inner_steps`, then makes the gradient step
    and the target update, and then calls :meth:`after_update`. :meth:`prepare` is called before the first update.

    Attributes:
        name (str): name of the state in checkpoints, unique within a run.
        stackable (bool): whether several seeds can be trained as one computation with this part.
        metric_groups (mapping): maps outputs of the losses to their group in ``metrics.csv``.
        curve_titles (mapping): titles of losses in figures, by name; they replace those of the losses.
        in_keys (sequence of NestedKey): entries of the meta-batch that the part reads in addition to those of
            the losses.

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
    curve_titles: Mapping[str, str] = {}
    in_keys: Sequence[NestedKey] = ()

    def prepare(self, checkpoint: Callable[[], None]) -> None:
        """Run steps before the first update, such as pretraining.

        A resumed run calls this again after :meth:`load_state_dict`. Continue from the loaded state, and return
        immediately if everything is done.

        Args:
            checkpoint: writes a checkpoint with the state of all parts; call it regularly.
        """

    def before_update(self, update: int) -> None:
        """Called with the number of the next update, from 0."""

    def batch(self, batch: TensorDictBase) -> TensorDictBase:
        """Return the meta-batch for the losses: the sampled one, extended or replaced."""
        return batch

    def inner_steps(self, batch: TensorDictBase, contexts: TensorDictBase) -> None:
        """Make steps with the part's optimizers, such as those of adversaries.

        Args:
            batch: the output of :meth:`batch`.
            contexts: ``task_context`` ``[T, d]`` and, if the encoder writes them, ``transition_contexts``
                ``[T, L, d]`` with their ``context_mask``, without gradient.
        """

    def after_update(self, update: int) -> None:
        """Called with the number of the completed update, from 0."""

    def candidates(self) -> Tensor | None:
        """Contexts ``[N, d]`` that an agent may try on an unknown task, or None."""
        return None

    def protocol_options(self) -> dict[str, Any]:
        """Options for adaptation protocols, passed as
        :attr:`ProtocolSettings.options <ctmrl_torchrl.collectors.ProtocolSettings>`, by name.

        Called when a meta-test begins. :attr:`RepresentationConfig.protocol_options` must list the names, so
        that settings can be checked before the part exists.
        """
        return {}

    def milestones(self) -> dict[str, float]:
        """Updates at which a phase begins or ends, by name, for the figures."""
        return {}

    def summary(self) -> dict[str, Any]:
        """Fields that the part adds to ``summary.json``."""
        return {}

    def draw(self, drawing: Drawing) -> None:
        """Draw the part's figures into ``drawing.folder``."""

    def state_dict(self) -> dict[str, Any]:
        """The state for resuming: tensors and plain values."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""


@dataclass
class Parts:
    """The parts of a run, called in order; see :class:`Part` for the hooks.

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
            raise ValueError(f"Several parts are named {', '.join(twice)}; give each part a unique name.")
        self._inner = [part for part in self.parts if type(part).inner_steps is not Part.inner_steps]

    @property
    def stackable(self) -> bool:
        """Whether all parts are stackable."""
        return all(part.stackable for part in self.parts)

    @property
    def metric_groups(self) -> dict[str, str]:
        """Metric groups of all parts."""
        return {name: group for part in self.parts for name, group in part.metric_groups.items()}

    @property
    def curve_titles(self) -> dict[str, str]:
        """Curve titles of all parts."""
        return {name: title for part in self.parts for name, title in part.curve_titles.items()}

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries of the meta-batch that the parts read in addition to the losses."""
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
        """See :meth:`Part.batch`; each part receives the output of the previous one."""
        for part in self.parts:
            batch = part.batch(batch)
        return batch

    def inner_steps(self, batch: TensorDictBase, contexts: Callable[[], TensorDictBase]) -> None:
        """See :meth:`Part.inner_steps`; ``contexts`` is only called if a part has inner steps."""
        if self._inner:
            encoded = contexts()
            for part in self._inner:
                part.inner_steps(batch, encoded)

    def after_update(self, update: int) -> None:
        """See :meth:`Part.after_update`."""
        for part in self.parts:
            part.after_update(update)

    def candidates(self) -> Tensor | None:
        """Candidates of the first part that has some."""
        found = (part.candidates() for part in self.parts)
        return next((candidates for candidates in found if candidates is not None), None)

    def protocol_options(self) -> dict[str, Any]:
        """Protocol options of all parts."""
        return {name: value for part in self.parts for name, value in part.protocol_options().items()}

    def milestones(self) -> dict[str, float]:
        """Milestones of all parts."""
        return {name: update for part in self.parts for name, update in part.milestones().items()}

    def summary(self) -> dict[str, Any]:
        """Summary entries of all parts."""
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
