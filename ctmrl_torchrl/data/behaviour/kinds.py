"""Static properties of kinds of behavior agents, and their registry."""

from __future__ import annotations

from typing import ClassVar

from ctmrl_torchrl.registry import Registry


class AgentsKind:
    """Properties of a kind of agents that a recipe needs.

    Attributes:
        algorithm (str): name of the learning algorithm, recorded in the manifest.
        told_parameters (bool): whether the policy reads the parameters of a row's task, so that it can act in
            tasks that it was not trained on.
        settings_class (type, optional): dataclass of settings specific to this kind; the required type of
            ``CollectionRecipe.settings``.
        unread_fields (frozenset of str): fields of :class:`CollectionRecipe` that this kind does not read and
            that a manifest omits.
    """

    algorithm: ClassVar[str]
    told_parameters: ClassVar[bool] = False
    settings_class: ClassVar[type | None] = None
    unread_fields: ClassVar[frozenset[str]] = frozenset()


#: kinds of behavior agents by name, as in a recipe's ``agents``
BEHAVIOUR_AGENTS: Registry[type[AgentsKind]] = Registry("kind of behaviour agents")
