"""Who makes the data: behaviour agents, the recipes of their training, and the recording of their stages."""

from ctmrl_torchrl.data.behaviour.collect import collect_task_dataset, snapshot_returns
from ctmrl_torchrl.data.behaviour.recipes import RECIPE_NAMES, CollectionRecipe, get_recipe, recipes_of

__all__ = [
    "RECIPE_NAMES",
    "CollectionRecipe",
    "collect_task_dataset",
    "get_recipe",
    "recipes_of",
    "snapshot_returns",
]
