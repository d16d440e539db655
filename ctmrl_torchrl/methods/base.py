"""The base configurations of methods, which build the representation loss, and of parts that are added to any."""

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
from ctmrl_torchrl.rules import among, lacks_build, ruled

#: configurations of representation losses by ``representation.name``
REPRESENTATIONS: Registry[type[RepresentationConfig]] = Registry("representation")
#: configurations of parts that can be added to every method, by the name in ``part=NAME``
PARTS: Registry[type[PartConfig]] = Registry("part")


@dataclass(frozen=True)
class Facts:
    """Facts about the run that a method's checks may use.

    Args:
        training_tasks (int): number of training tasks.
        representation_updates (float): number of updates in which the representation learns.
        encoder (ContextEncoderConfig): the chosen encoder.
        transitions (int): policy transitions per task in a meta-batch.
    """

    training_tasks: int
    representation_updates: float
    encoder: ContextEncoderConfig
    transitions: int = 256


@dataclass
class RepresentationConfig:
    """Base class of representation configurations. Register subclasses with ``REPRESENTATIONS.register(name)``.

    Args:
        name (str): name of the choice.
        critic_gradient (str): part of the encoder that the critic's gradient reaches, ``none``, ``pooling`` or
            ``all``; see :class:`~ctmrl_torchrl.objectives.MetaLoss`.

    Attributes:
        uses_transition_contexts (bool): whether the loss reads per-transition contexts.
        num_candidates (int or None): number of contexts that the method provides for protocol ``codes``, or
            None.
        learns (bool): whether there is anything to train besides the policy.
        protocol_options (tuple of str): names of the options that its parts provide for protocols; see
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
    learns: ClassVar[bool] = True
    protocol_options: ClassVar[tuple[str, ...]] = ()

    name: str = "none"
    critic_gradient: str = ruled("none", among("none", "pooling", "all"))

    @property
    def num_candidates(self) -> int | None:
        """None, because the method has no candidates."""
        return None

    def build(self, problem: Problem, context_dim: int) -> RepresentationLoss:
        """Build the loss with all its modules.

        Raises:
            ConfigError: if a subclass does not define this method.
        """
        raise lacks_build(
            self, RepresentationConfig, REPRESENTATIONS, "representation", "build(problem, context_dim)"
        )

    def parts(self, setting: Setting) -> list[Part]:
        """The parts of the method; none by default."""
        return []

    def parameter_groups(self, loss: MetaLoss) -> list[ParameterGroup]:
        """The parameter groups besides the policy: encoder and representation loss, with one learning rate."""
        modules = [loss.context_encoder, loss.representation]
        return [ParameterGroup.of("representation", modules, schedule="representation")]

    def check(self, facts: Facts) -> None:
        """Reject values that do not match each other or the run.

        Raises:
            ConfigError: with the field.
        """


@REPRESENTATIONS.register("nothing")
@dataclass
class NoRepresentationConfig(RepresentationConfig):
    """No representation loss: for encoders without parameters or that learn from the critic.

    Examples:
        >>> NoRepresentationConfig().build(None, 4).out_keys
        []
    """

    learns: ClassVar[bool] = False

    name: str = "nothing"

    def build(self, problem: Problem, context_dim: int) -> NoRepresentationLoss:
        """Build a loss without terms."""
        return NoRepresentationLoss()


@dataclass
class PartConfig:
    """Base class of configurations of parts that ``part=NAME`` adds to any method.

    Register subclasses with ``PARTS.register(name)``. The part of this name has its fields in ``parts.NAME``;
    ``part=[a,b]`` adds several, whose hooks are called in this order, after those of the method's own parts.

    Args:
        name (str): name of the choice.

    Attributes:
        protocol_options (tuple of str): names of the options that the part provides for protocols; see
            :meth:`Part.protocol_options`.

    Examples:
        >>> @dataclass
        ... class Config(PartConfig):
        ...     name: str = "counter"
        ...     def build(self, setting):
        ...         return Part()
        >>> Config().build(None).name
        'part'
    """

    protocol_options: ClassVar[tuple[str, ...]] = ()

    name: str = "none"

    def build(self, setting: Setting) -> Part:
        """Build the part.

        Raises:
            ConfigError: if a subclass does not define this method.
        """
        raise lacks_build(self, PartConfig, PARTS, f"parts.{self.name}", "build(setting)")

    def check(self, facts: Facts) -> None:
        """Reject values that do not match each other or the run.

        Raises:
            ConfigError: with the field.
        """
