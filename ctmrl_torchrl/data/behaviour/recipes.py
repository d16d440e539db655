"""How behaviour data are made: the settings of a collection, and the named ones."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from ctmrl_torchrl.envs import get_family

#: the kinds of behaviour agents
AGENTS = ("per_task", "conditioned")


@dataclass(frozen=True)
class CollectionRecipe:
    """How behaviour policies are trained and which of their stages are kept as data.

    Snapshot 0 is the uniformly random policy when ``random_snapshot`` is set; the others are the actors after
    ``snapshot_steps`` gradient steps, in that order.

    Args:
        snapshot_steps: gradient steps at which the actors are cloned, increasing; training ends at the last.
        trajectories_per_snapshot: stochastic episodes that each task records with each snapshot.
        random_snapshot: whether to begin with the uniformly random policy (recorded as step 0).
        hidden_sizes: widths of the hidden layers of every actor and critic.
        learning_rate: of Adam, for actors and critics.
        annealed_fraction: last share of the gradient steps, over which the learning rate falls linearly
            to zero.
        batch_size: transitions per task in a gradient step.
        entropy_coefficient: SAC's alpha. It is fixed and the same for every task, because a learned one would
            be the only parameter that the agents share.
        target_rate: Polyak rate of the target critics.
        discount: None takes the environment family's.
        rows_per_task: parallel episodes per task while training; several speed up early learning.
        random_episodes: uniformly random episodes per row before the first gradient step.
        explore: whether the agents learn from episodes with their noise; otherwise from their mean actions.
        gradient_steps_per_episode: gradient steps after each round of episodes; None means one per
            environment step.
        replay_capacity: environment transitions kept per task.
        agents: ``"per_task"``, an independent agent for each task (the paper's), or ``"conditioned"``, one
            that is told the task's parameters.
        learn_entropy: whether alpha follows the entropy of minus the action's size (one for all tasks, so for
            conditioned agents only); ``entropy_coefficient`` is then where it starts.

    Raises:
        ValueError: if a field is out of its range; the message names the field.

    Examples:
        >>> recipe = CollectionRecipe(snapshot_steps=(10, 20), trajectories_per_snapshot=3)
        >>> recipe.all_steps, recipe.gradient_steps
        ((0, 10, 20), 20)
    """

    snapshot_steps: tuple[int, ...]
    trajectories_per_snapshot: int
    random_snapshot: bool = True
    hidden_sizes: tuple[int, ...] = (128, 32)
    learning_rate: float = 3e-3
    annealed_fraction: float = 0.5
    batch_size: int = 64
    entropy_coefficient: float = 0.005
    target_rate: float = 0.1
    discount: float | None = None
    rows_per_task: int = 4
    random_episodes: int = 2
    explore: bool = True
    gradient_steps_per_episode: int | None = None
    replay_capacity: int = 100_000
    agents: str = "per_task"
    learn_entropy: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "snapshot_steps", tuple(int(step) for step in self.snapshot_steps))
        object.__setattr__(self, "hidden_sizes", tuple(int(size) for size in self.hidden_sizes))
        steps = self.snapshot_steps
        if any(step < 1 for step in steps) or any(b <= a for a, b in pairwise(steps)):
            raise ValueError(f"snapshot_steps must be positive and strictly increasing, got {steps}.")
        if not steps and not self.random_snapshot:
            raise ValueError(
                "snapshot_steps is empty and random_snapshot False: there is nothing to collect."
            )
        at_least_one = ("trajectories_per_snapshot", "batch_size", "rows_per_task", "random_episodes")
        for name in (*at_least_one, "replay_capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.gradient_steps_per_episode is not None and self.gradient_steps_per_episode < 1:
            got = self.gradient_steps_per_episode
            raise ValueError(f"gradient_steps_per_episode must be at least 1 or None, got {got}.")
        if self.agents not in AGENTS:
            raise ValueError(f"agents must be one of {', '.join(AGENTS)}, got {self.agents!r}.")
        if self.discount is not None and not 0.0 <= self.discount < 1.0:
            raise ValueError(f"discount must lie in [0, 1), got {self.discount}.")
        if not 0.0 <= self.annealed_fraction <= 1.0:
            raise ValueError(f"annealed_fraction must lie in [0, 1], got {self.annealed_fraction}.")
        for name in ("learning_rate", "entropy_coefficient", "target_rate"):
            if not getattr(self, name) > 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of the whole training: those of the last snapshot."""
        return self.snapshot_steps[-1] if self.snapshot_steps else 0

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The training step of every snapshot, by snapshot id (0 stands for the random policy)."""
        return (0, *self.snapshot_steps) if self.random_snapshot else self.snapshot_steps

    def learning_rate_scale(self, step: int) -> float:
        """Factor on the learning rate of gradient step ``step`` (counted from 0)."""
        if not self.annealed_fraction:
            return 1.0
        return min(1.0, (1.0 - step / self.gradient_steps) / self.annealed_fraction)

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain JSON types."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


#: for the point robots
POINT_ROBOT_RECIPES: dict[str, CollectionRecipe] = {
    # for tests and the smoke preset: seconds, and too little to learn anything from
    "smoke": CollectionRecipe(
        snapshot_steps=(10, 40, 100),
        trajectories_per_snapshot=6,
        hidden_sizes=(32, 32),
        learning_rate=1.5e-2,
        batch_size=32,
    ),
    # quick: the whole of point_robot with 40 tasks in about a minute of one core
    "small": CollectionRecipe(
        snapshot_steps=(10, 30, 35, 40, 50, 80, 120, 170, 220, 300, 450, 800, 1500),
        trajectories_per_snapshot=40,
        learning_rate=1.5e-2,
        batch_size=32,
    ),
    # the released checkpoints (2200 to 5000 by 200, 50 episodes each), after earlier ones for coverage
    "paper": CollectionRecipe(
        snapshot_steps=(20, 40, 60, 80, 100, 150, 200, 300, 500, 800, 1200, 1700, *range(2200, 5001, 200)),
        trajectories_per_snapshot=50,
    ),
}


# What the recipes for the MuJoCo robots share.
_TOLD: dict[str, Any] = {
    "agents": "conditioned",
    "hidden_sizes": (256, 256),
    "learning_rate": 7e-4,
    "annealed_fraction": 0.3,
    "batch_size": 8,
    "entropy_coefficient": 0.1,
    "learn_entropy": True,
    "target_rate": 0.01,
    "rows_per_task": 1,
    "random_episodes": 2,
    "replay_capacity": 20_000,
}
_MUJOCO_CHECKPOINTS = tuple(range(5_000, 95_001, 5_000))

#: for the MuJoCo robots
MUJOCO_RECIPES: dict[str, CollectionRecipe] = {
    "smoke": CollectionRecipe(
        snapshot_steps=(2, 8), trajectories_per_snapshot=2, **_TOLD | {"hidden_sizes": (32, 32)}
    ),
    # on two CPU cores: well under an hour, tens of megabytes
    "small": CollectionRecipe(
        snapshot_steps=(500, 1000, 2000, 3000, 4000, 6000, 8000, 12_000, 20_000, 40_000),
        trajectories_per_snapshot=4,
        **_TOLD,
    ),
    # nineteen checkpoints of 50 episodes, as many as were released
    "paper": CollectionRecipe(snapshot_steps=_MUJOCO_CHECKPOINTS, trajectories_per_snapshot=50, **_TOLD),
    # and an agent for every task, as they were made: for a machine with a GPU
    "paper_per_task": CollectionRecipe(
        snapshot_steps=tuple(range(50_000, 950_001, 50_000)),
        trajectories_per_snapshot=50,
        hidden_sizes=(256, 256, 256),
        learning_rate=3e-4,
        annealed_fraction=0.0,
        batch_size=256,
        entropy_coefficient=0.2,
        target_rate=0.005,
        rows_per_task=1,
        replay_capacity=1_000_000,
    ),
}

#: every name that some environment has a recipe of
RECIPE_NAMES: tuple[str, ...] = tuple(dict.fromkeys((*POINT_ROBOT_RECIPES, *MUJOCO_RECIPES)))


def recipes_of(env_name: str) -> dict[str, CollectionRecipe]:
    """The named recipes of an environment family.

    Examples:
        >>> sorted(recipes_of("half_cheetah_vel"))
        ['paper', 'paper_per_task', 'small', 'smoke']
    """
    return MUJOCO_RECIPES if get_family(env_name).simulator == "mujoco" else POINT_ROBOT_RECIPES


def recipe_name(recipe: CollectionRecipe, env_name: str) -> str:
    """The name that a recipe has for an environment family, or ``"custom"``."""
    return next((name for name, known in recipes_of(env_name).items() if known == recipe), "custom")


def get_recipe(name: str, env_name: str) -> CollectionRecipe:
    """Look up a named recipe of an environment family.

    Raises:
        ValueError: if there is none of that name; the message lists the names.

    Examples:
        >>> len(get_recipe("small", "point_robot").all_steps)
        14
    """
    recipes = recipes_of(env_name)
    if name not in recipes:
        raise ValueError(
            f"unknown collection recipe {name!r}; those of {env_name} are {', '.join(sorted(recipes))}"
        )
    return recipes[name]
