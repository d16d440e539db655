"""Data collection: behavior agents, their training recipes, and the recording of snapshots.

The rest of ``data`` does not import this package. Importing it registers the library's kinds of agents and
recipes.
"""

from ctmrl_torchrl.data.behaviour import named_recipes  # noqa: F401 (registers recipes, and their agents)
from ctmrl_torchrl.data.behaviour.agents import BehaviourAgents, register_agents
from ctmrl_torchrl.data.behaviour.collect import collect_task_dataset, snapshot_returns
from ctmrl_torchrl.data.behaviour.kinds import BEHAVIOUR_AGENTS
from ctmrl_torchrl.data.behaviour.ppo_settings import PPOSettings
from ctmrl_torchrl.data.behaviour.recipes import (
    CollectionRecipe,
    get_recipe,
    recipe_names,
    recipes_of,
    register_recipe,
    unregister_recipe,
)

__all__ = [
    "BEHAVIOUR_AGENTS",
    "BehaviourAgents",
    "CollectionRecipe",
    "PPOSettings",
    "collect_task_dataset",
    "get_recipe",
    "recipe_names",
    "recipes_of",
    "register_agents",
    "register_recipe",
    "snapshot_returns",
    "unregister_recipe",
]
