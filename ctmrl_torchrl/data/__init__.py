"""Offline data: datasets on disk, context draws, meta-batches, and import of released data."""

from ctmrl_torchrl.data.behaviour import (
    BehaviourAgents,
    CollectionRecipe,
    PPOSettings,
    collect_task_dataset,
    get_recipe,
    recipe_names,
    recipes_of,
    register_agents,
    register_recipe,
    snapshot_returns,
)
from ctmrl_torchrl.data.buffer import MetaReplayBuffer
from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.draws import ContextDraw
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.importers import import_released
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.data.sampler import TaskSampler, draw_context

__all__ = [
    "BehaviourAgents",
    "CollectionRecipe",
    "ContextDraw",
    "DatasetError",
    "DatasetManifest",
    "MetaReplayBuffer",
    "PPOSettings",
    "TaskDataset",
    "TaskSampler",
    "collect_task_dataset",
    "draw_context",
    "get_recipe",
    "import_released",
    "library_versions",
    "recipe_names",
    "recipes_of",
    "register_agents",
    "register_recipe",
    "snapshot_returns",
]
