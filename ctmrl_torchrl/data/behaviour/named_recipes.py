"""The library's recipes, by simulator and for some families separately."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ctmrl_torchrl.data.behaviour import conditioned, ppo, sac  # noqa: F401 (they register their agents)
from ctmrl_torchrl.data.behaviour.kinds import BEHAVIOUR_AGENTS
from ctmrl_torchrl.data.behaviour.ppo_settings import PPOSettings
from ctmrl_torchrl.data.behaviour.recipes import CollectionRecipe, register_recipe

# For the point robots and other families that are simulated in torch.
_TORCH: dict[str, CollectionRecipe] = {
    # for tests and the smoke preset: takes seconds and is too small to learn from
    "smoke": CollectionRecipe(
        snapshot_steps=(10, 40, 100),
        trajectories_per_snapshot=6,
        hidden_sizes=(32, 32),
        learning_rate=1.5e-2,
        batch_size=32,
    ),
    # quick: all 40 tasks of point_robot in about a minute on one core
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

# As many episodes of the same behavior, from its last four snapshots alone: data without its early mistakes.
_TORCH["small_late"] = replace(
    _TORCH["small"],
    snapshot_steps=(300, 450, 800, 1500),
    trajectories_per_snapshot=140,
    random_snapshot=False,
)


#: widths for tests
_SMALL: dict[str, Any] = {"hidden_sizes": (32, 32)}
# Shared settings of the recipes for MuJoCo robots.
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


def geometric_steps(first: int, last: int, count: int) -> tuple[int, ...]:
    """Geometrically spaced steps from ``first`` to ``last``, rounded to tens of thousands.

    Examples:
        >>> geometric_steps(100_000, 800_000, 4)
        (100000, 200000, 400000, 800000)
    """
    factor = (last / first) ** (1.0 / (count - 1))
    return tuple(round(first * factor**index / 10_000) * 10_000 for index in range(count))


def _ppo(steps: int, **settings: Any) -> CollectionRecipe:
    """The PPO agent for a robot, with ten snapshots from before the first success to the end of training."""
    return CollectionRecipe(
        snapshot_steps=geometric_steps(150_000, steps, 10),
        trajectories_per_snapshot=4,
        agents="ppo",
        hidden_sizes=(128, 128),
        learning_rate=3e-4,
        annealed_fraction=0.3,
        rows_per_task=4,
        settings=PPOSettings(**settings),
    )


_MUJOCO_CHECKPOINTS = tuple(range(5_000, 95_001, 5_000))

# For the MuJoCo robots.
_MUJOCO: dict[str, CollectionRecipe] = {
    "smoke": CollectionRecipe(snapshot_steps=(2, 8), trajectories_per_snapshot=2, **_TOLD | _SMALL),
    # one CPU core: six to twelve minutes, tens of megabytes
    "small": _ppo(3_000_000, entropy_coefficient=0.0005),
    # the same with SAC, which takes longer and mostly learns to stand if standing is rewarded
    "small_sac": CollectionRecipe(
        snapshot_steps=(500, 1000, 2000, 3000, 4000, 6000, 8000, 12_000, 20_000, 40_000),
        trajectories_per_snapshot=4,
        **_TOLD,
    ),
    # nineteen checkpoints of 50 episodes, as in the released data
    "paper": CollectionRecipe(snapshot_steps=_MUJOCO_CHECKPOINTS, trajectories_per_snapshot=50, **_TOLD),
    # one agent per task, as in the released data: for a machine with a GPU
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

# For families made by from_gymnasium: one task-conditioned SAC agent, sized for small control tasks.
_SMALL_CONTROL: dict[str, Any] = _TOLD | {"hidden_sizes": (128, 128), "learning_rate": 1e-3, "batch_size": 16}
_GYMNASIUM: dict[str, CollectionRecipe] = {
    "smoke": CollectionRecipe(snapshot_steps=(2, 8), trajectories_per_snapshot=2, **_TOLD | _SMALL),
    "small": CollectionRecipe(
        snapshot_steps=(200, 400, 600, 800, 1000, 1400, 2000, 3000, 4000),
        trajectories_per_snapshot=6,
        **_SMALL_CONTROL,
    ),
    "paper": CollectionRecipe(
        snapshot_steps=tuple(range(1_000, 20_001, 1_000)), trajectories_per_snapshot=50, **_SMALL_CONTROL
    ),
}


def _register(name: str, recipe: CollectionRecipe, **scope: str) -> None:
    """Register a recipe and, for the default, variants whose behavior does not learn from test tasks."""
    register_recipe(name, recipe, **scope)
    if name == "small":
        told = BEHAVIOUR_AGENTS.get(recipe.agents).told_parameters
        for choice in ("train", "train_only") if told else ("train_only",):
            register_recipe(f"small_{choice}", replace(recipe, behaviour_tasks=choice), **scope)


for _simulator, _recipes in {"torch": _TORCH, "mujoco": _MUJOCO, "gymnasium": _GYMNASIUM}.items():
    for _name, _recipe in _recipes.items():
        _register(_name, _recipe, simulator=_simulator)
# Hopper: a larger entropy bonus and a longer training.
_register("small", _ppo(4_000_000, entropy_coefficient=0.002), family="hopper_rand_params")
# Ant: a step costs twice as much to simulate, so the training is shorter.
_register("small", _ppo(2_500_000, entropy_coefficient=0.0005), family="ant_goal")
# For task sets with added bodies, as in tasks=repo+60: twice as long, with half the rows for each body.
for _name, _steps, _entropy in (
    ("hopper_rand_params", 8_000_000, 0.002),
    ("walker_rand_params", 6_000_000, 0.0005),
):
    _long = replace(_ppo(_steps, entropy_coefficient=_entropy), rows_per_task=2)
    _register("long", _long, family=_name)
    # The same behavior, which learns from sixty further bodies, for the usual task sets: only these have data.
    _register("broad", replace(_long, more_tasks=60), family=_name)
