"""Recipes of behavior data collection and their registry."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any

from ctmrl_torchrl.data.behaviour.kinds import BEHAVIOUR_AGENTS
from ctmrl_torchrl.envs import get_family
from ctmrl_torchrl.registry import Registry, UnknownChoiceError, nearest
from ctmrl_torchrl.rules import (
    POSITIVE,
    SHARE,
    SHARE_BELOW_ONE,
    SWITCH,
    among,
    check_fields,
    is_whole,
    or_none,
    registered,
    require,
    ruled,
    whole,
)


@dataclass(frozen=True)
class CollectionRecipe:
    """Settings for training behavior policies and for selecting the snapshots to record.

    Snapshot 0 is the uniformly random policy if ``random_snapshot`` is set; the others are the actors after
    ``snapshot_steps`` training steps, in that order.

    Args:
        snapshot_steps: training steps at which actors are saved, increasing; training ends at the last one. SAC
            agents count gradient steps, the PPO agent counts environment steps of all rows.
        trajectories_per_snapshot: stochastic episodes per task and snapshot.
        random_snapshot: whether to start with the uniformly random policy (recorded as step 0).
        hidden_sizes: hidden layers of every actor and critic.
        learning_rate: learning rate of Adam, for actors and critics.
        annealed_fraction: final fraction of training over which the learning rate decays linearly (SAC: to
            zero; PPO: to ``settings.last_rate`` of it).
        batch_size: transitions per task in a gradient step. SAC only.
        entropy_coefficient: SAC's alpha. It is fixed and equal for all tasks, because a learned one would be
            the only parameter that independent agents share.
        target_rate: soft-update rate of SAC's target critics.
        discount: None uses the environment family's discount.
        rows_per_task: parallel episodes per task during training; more speed up early learning.
        random_episodes: uniformly random episodes per row before SAC's first gradient step.
        explore: whether SAC agents collect training episodes with stochastic or with mean actions.
        gradient_steps_per_episode: SAC's gradient steps after each round of episodes; None means one per
            environment step.
        replay_capacity: environment transitions kept per task. SAC only.
        agents: kind of agents, a name in ``BEHAVIOUR_AGENTS``: ``"per_task"``, an independent SAC agent per task
            (as in the paper); ``"conditioned"``, one SAC agent conditioned on the task's parameters;
            ``"ppo"``, one PPO agent conditioned on them; or one added by :func:`register_agents`.
        learn_entropy: whether to tune alpha to a target entropy of minus the action dimension (one alpha for
            all tasks, so only for conditioned agents); ``entropy_coefficient`` is then its initial value.
        behaviour_tasks: training tasks of the behavior, and tasks with data.

            - ``"all"``: trained on training and test tasks; all have data. Meta-training only reads the data of
              training tasks. Only the ``offline`` protocol uses the data of test tasks, which come from a
              behavior that was trained on them.
            - ``"train"``: trained on training tasks. Data of test tasks come from the same policy, conditioned
              on the test tasks' parameters, so ``agents`` must be a conditioned kind.
            - ``"train_only"``: trained on training tasks; test tasks have no data, so the ``offline`` protocol
              is not available for them.
        more_tasks: number of further training tasks that the behavior learns from as well, those that the preset
            ``repo+60`` adds to ``repo``. They have no data. Needs a family that samples its tasks one after the
            other (hopper, walker), and ``agents`` of a conditioned kind.
        settings: other settings of the kind of agents (``PPOSettings`` for ``"ppo"``); None uses its
            defaults.

    Raises:
        ConfigError: a ``ValueError``, if a field is out of range; the message contains the field.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(10, 20), trajectories_per_snapshot=3)
        >>> recipe.all_steps, recipe.total_steps
        ((0, 10, 20), 20)
    """

    snapshot_steps: tuple[int, ...]
    trajectories_per_snapshot: int
    random_snapshot: bool = ruled(True, SWITCH)
    hidden_sizes: tuple[int, ...] = (128, 32)
    learning_rate: float = ruled(3e-3, POSITIVE)
    annealed_fraction: float = ruled(0.5, SHARE)
    batch_size: int = ruled(64, whole(1))
    entropy_coefficient: float = ruled(0.005, POSITIVE)
    target_rate: float = ruled(0.1, POSITIVE)
    discount: float | None = ruled(None, or_none(SHARE_BELOW_ONE))
    rows_per_task: int = ruled(4, whole(1))
    random_episodes: int = ruled(2, whole(1))
    explore: bool = ruled(True, SWITCH)
    gradient_steps_per_episode: int | None = ruled(None, or_none(whole(1)))
    replay_capacity: int = ruled(100_000, whole(1))
    agents: str = ruled("per_task", registered(BEHAVIOUR_AGENTS))
    learn_entropy: bool = ruled(False, SWITCH)
    behaviour_tasks: str = ruled("all", among("all", "train", "train_only"))
    more_tasks: int = ruled(0, whole(0))
    settings: Any = None

    def __post_init__(self) -> None:
        for name in ("snapshot_steps", "hidden_sizes"):
            listed = getattr(self, name)
            require(isinstance(listed, Iterable), name, listed, "a list of positive whole numbers")
            object.__setattr__(self, name, tuple(listed))
        steps = self.snapshot_steps
        increasing = all(is_whole(s) and s >= 1 for s in steps) and all(a < b for a, b in pairwise(steps))
        require(increasing, "snapshot_steps", steps, "positive whole numbers, strictly increasing")
        require(
            bool(steps) or self.random_snapshot,
            "snapshot_steps",
            steps,
            "at least one step, or random_snapshot=True; otherwise no data would be collected",
        )
        trajectories = self.trajectories_per_snapshot
        rule = whole(1)
        require(rule.allows(trajectories), "trajectories_per_snapshot", trajectories, rule.describe())
        widths = all(is_whole(size) and size >= 1 for size in self.hidden_sizes)
        require(widths, "hidden_sizes", self.hidden_sizes, "positive whole numbers")
        check_fields(self)
        require(self.target_rate <= 1, "target_rate", self.target_rate, "a number above 0 and at most 1")
        kind = BEHAVIOUR_AGENTS.get(self.agents)
        require(
            self.behaviour_tasks != "train" or kind.told_parameters,
            "behaviour_tasks",
            self.behaviour_tasks,
            f"'all' or 'train_only' with agents={self.agents!r}, which cannot act in tasks they were not "
            "trained on; 'train' needs agents conditioned on the parameters",
        )
        require(
            not self.more_tasks or kind.told_parameters,
            "more_tasks",
            self.more_tasks,
            f"0 with agents={self.agents!r}, which learn nothing from other tasks; more tasks need agents "
            "conditioned on the parameters",
        )
        expected = kind.settings_class
        require(
            self.settings is None or (expected is not None and isinstance(self.settings, expected)),
            "settings",
            self.settings,
            "None" if expected is None else f"None or {expected.__name__} with agents={self.agents!r}",
        )

    @property
    def total_steps(self) -> int:
        """Total number of training steps: that of the last snapshot."""
        return self.snapshot_steps[-1] if self.snapshot_steps else 0

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The training step of every snapshot, by snapshot id (0 stands for the random policy)."""
        return (0, *self.snapshot_steps) if self.random_snapshot else self.snapshot_steps

    def learning_rate_scale(self, step: int) -> float:
        """Factor on the learning rate of training step ``step`` (counted from 0)."""
        if not self.annealed_fraction or not self.total_steps:
            return 1.0
        return max(0.0, min(1.0, (1.0 - step / self.total_steps) / self.annealed_fraction))

    def to_dict(self) -> dict[str, Any]:
        """The fields that the agents read, as plain JSON types."""
        kind = BEHAVIOUR_AGENTS.get(self.agents)
        settings = self.settings
        if settings is None and kind.settings_class is not None:
            settings = kind.settings_class()
        plain = {
            each.name: _plain(getattr(self, each.name))
            for each in fields(self)
            if each.name not in kind.unread_fields and each.name not in _LATER
        }
        # Data of earlier versions of the library have none of these.
        if settings is not None:
            plain["settings"] = {name: _plain(value) for name, value in asdict(settings).items()}
        if self.behaviour_tasks != "all":
            plain["behaviour_tasks"] = self.behaviour_tasks
        if self.more_tasks:
            plain["more_tasks"] = self.more_tasks
        return plain


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# Fields that `to_dict` omits at their defaults.
_LATER = ("settings", "behaviour_tasks", "more_tasks")

_OF_FAMILIES: dict[str, Registry[CollectionRecipe]] = {}
_OF_SIMULATORS: dict[str, Registry[CollectionRecipe]] = {}


def register_recipe(
    name: str, recipe: CollectionRecipe, *, family: str | None = None, simulator: str | None = None
) -> CollectionRecipe:
    """Register a recipe for ``dataset.recipe``, for one environment family or for a simulator.

    A family's own recipe takes precedence over its simulator's recipe of the same name.

    Args:
        name: the name of the choice.
        recipe: the recipe.
        family: the environment family of the recipe.
        simulator: alternatively, the simulator of the recipe: ``"torch"``, ``"mujoco"``, ``"gymnasium"`` or
            another ``EnvFamily.simulator``.

    Returns:
        The recipe.

    Raises:
        ValueError: if not exactly one of ``family`` and ``simulator`` is given, or the name is already
            registered.

    Examples:
        >>> mine = CollectionRecipe(snapshot_steps=(10,), trajectories_per_snapshot=3)
        >>> _ = register_recipe("mine", mine, family="point_robot")
        >>> get_recipe("mine", "point_robot") == mine
        True
        >>> unregister_recipe("mine", family="point_robot")
    """
    registries, scope = _scope(family, simulator)
    if not isinstance(recipe, CollectionRecipe):
        raise ValueError(f"register_recipe({name!r}) needs a CollectionRecipe, got {recipe!r}.")
    return registries.setdefault(scope, Registry(f"collection recipe of {scope}")).register(name, recipe)


def unregister_recipe(name: str, *, family: str | None = None, simulator: str | None = None) -> None:
    """Remove a recipe, e.g. at the end of a test."""
    registries, scope = _scope(family, simulator)
    if scope in registries:
        registries[scope].unregister(name)


def _scope(family: str | None, simulator: str | None) -> tuple[dict[str, Registry[CollectionRecipe]], str]:
    if (family is None) == (simulator is None):
        raise ValueError(
            f"A recipe belongs to a family or to a simulator; got family={family!r}, simulator={simulator!r}."
        )
    return (_OF_FAMILIES, str(family)) if simulator is None else (_OF_SIMULATORS, simulator)


def recipes_of(env_name: str) -> dict[str, CollectionRecipe]:
    """The named recipes of an environment family, including those of its simulator.

    Raises:
        ValueError: if the family is unknown.

    Examples:
        >>> sorted(recipes_of("point_robot"))
        ['paper', 'small', 'small_late', 'small_train_only', 'smoke']
    """
    family = get_family(env_name)
    found: dict[str, CollectionRecipe] = {}
    for registries, scope in ((_OF_SIMULATORS, family.simulator), (_OF_FAMILIES, family.name)):
        if scope in registries:
            found |= registries[scope].items()
    return found


def recipe_names() -> tuple[str, ...]:
    """All recipe names of all families and simulators."""
    every = (*_OF_SIMULATORS.values(), *_OF_FAMILIES.values())
    return tuple(dict.fromkeys(name for registry in every for name in registry))


def recipe_name(recipe: CollectionRecipe, env_name: str) -> str:
    """The name of a recipe for an environment family, or ``"custom"``."""
    return next((name for name, known in recipes_of(env_name).items() if known == recipe), "custom")


def get_recipe(name: str, env_name: str) -> CollectionRecipe:
    """Look up a named recipe of an environment family.

    Raises:
        UnknownChoiceError: a ``ValueError``, if the name is unknown; the message lists the known names.

    Examples:
        >>> len(get_recipe("small", "point_robot").all_steps)
        14
    """
    recipes = recipes_of(env_name)
    if name not in recipes:
        known = f"Known: {', '.join(sorted(recipes))}." if recipes else "It has none; see register_recipe."
        raise UnknownChoiceError(
            f"Unknown collection recipe {name!r} of {env_name}.{nearest(name, recipes)} {known}"
        )
    return recipes[name]
