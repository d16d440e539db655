"""What a method is: a configuration that builds its representation loss and names its parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ctmrl_torchrl.methods.parts import Part, Setting
from ctmrl_torchrl.modules.encoder_configs import ContextEncoderConfig
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.objectives.parameter_groups import ParameterGroup
from ctmrl_torchrl.objectives.representation.base import NoRepresentationLoss, RepresentationLoss
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.registry import Registry
from ctmrl_torchrl.rules import among, ruled

#: configurations of representation losses by the name that ``representation.name`` has
REPRESENTATIONS: Registry[type[RepresentationConfig]] = Registry("representation")


@dataclass(frozen=True)
class Facts:
    """What the checks of a method may look at besides its own fields.

    Args:
        training_tasks (int): how many there are.
        representation_updates (float): updates in which the representation learns.
        encoder (ContextEncoderConfig): the chosen encoder.
        transitions (int): policy transitions of each task in a meta-batch.
    """

    training_tasks: int
    representation_updates: float
    encoder: ContextEncoderConfig
    transitions: int = 256


@dataclass
class RepresentationConfig:
    """Base of the representation configurations; register a subclass with ``REPRESENTATIONS.register(name)``.

    Args:
        name (str): the choice.
        critic_gradient (str): what the critic's gradient reaches of the encoder, ``none``, ``pooling`` or
            ``all``; see :class:`~ctmrl_torchrl.objectives.MetaLoss`.

    Attributes:
        uses_transition_contexts (bool): whether the loss is ever shown contexts of single transitions.
        num_candidates (int or None): how many contexts the method offers to protocol ``codes``; None if it
            has none of its own.
        protocol_options (tuple of str): names of what its parts give adaptation protocols; see
            :meth:`Part.protocol_options`.

    Examples:
        >>> @dataclass
        ... class Config(RepresentationConfig):
        ...     name: str = "mine"
        ...     def build(self, problem, context_dim):
        ...         return NoRepresentationLoss()
        >>> Config().build(None, 4).out_keys
        []
    """

    uses_transition_contexts: ClassVar[bool] = False
    protocol_options: ClassVar[tuple[str, ...]] = ()

    name: str = "none"
    critic_gradient: str = ruled("none", among("none", "pooling", "all"))

    @property
    def num_candidates(self) -> int | None:
        """None: the method has no candidates of its own."""
        return None

    def build(self, problem: Problem, context_dim: int) -> RepresentationLoss:
        """Build the loss with all of its modules."""
        raise ValueError(
            f"representation.name={self.name!r} names no representation loss; choose one of "
            f"{', '.join(sorted(REPRESENTATIONS))}, or a method (method=ctmrl)."
        )

    def parts(self, setting: Setting) -> list[Part]:
        """What happens around an update; nothing by default."""
        return []

    def parameter_groups(self, loss: MetaLoss) -> list[ParameterGroup]:
        """What is optimized beside the policy: encoder and representation loss, at one rate."""
        modules = [loss.context_encoder, loss.representation]
        return [ParameterGroup.of("representation", modules, schedule="representation")]

    def check(self, facts: Facts) -> None:
        """Refuse values that do not fit each other or the run.

        Raises:
            ConfigError: naming the field.
        """


@REPRESENTATIONS.register("nothing")
@dataclass
class NoRepresentationConfig(RepresentationConfig):
    """No representation loss: for encoders that have nothing to learn, or learn from the critic.

    Examples:
        >>> NoRepresentationConfig().build(None, 4).out_keys
        []
    """

    name: str = "nothing"

    def build(self, problem: Problem, context_dim: int) -> NoRepresentationLoss:
        """Build a loss without terms."""
        return NoRepresentationLoss()
