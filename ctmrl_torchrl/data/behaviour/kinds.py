"""What is known of a kind of behaviour agents before any are made, and the registry of the kinds."""

from __future__ import annotations

from typing import ClassVar

from ctmrl_torchrl.registry import Registry


class AgentsKind:
    """What a recipe must know of the agents that it names.

    Attributes:
        algorithm (str): name of the learning algorithm, recorded in the manifest.
        told_parameters (bool): whether the policy reads the parameters of a row's task, so that it can act on
            tasks it was not trained on.
        settings_class (type, optional): dataclass of the settings that only this kind has; what
            ``CollectionRecipe.settings`` must be.
        unread_fields (frozenset of str): fields of :class:`CollectionRecipe` that this kind does not read;
            a manifest leaves them out.
    """

    algorithm: ClassVar[str]
    told_parameters: ClassVar[bool] = False
    settings_class: ClassVar[type | None] = None
    unread_fields: ClassVar[frozenset[str]] = frozenset()


#: the kinds of behaviour agents, by the name that a recipe's ``agents`` has
BEHAVIOUR_AGENTS: Registry[type[AgentsKind]] = Registry("kind of behaviour agents")
