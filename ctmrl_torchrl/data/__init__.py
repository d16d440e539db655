"""Offline data: datasets on disk, context sampling, meta-batches, and import of released data."""

from ctmrl_torchrl.data.behaviour import (
    BehaviourAgents,
    CollectionRecipe,
    PPOSettings,
    collect,
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
from ctmrl_torchrl.data.interchange import (
    IMPORTERS,
    from_minari,
    import_dataset,
    import_released,
    import_unicorn,
    to_minari,
)
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.data.sampler import TaskSampler, draw_context, draw_episode
from ctmrl_torchrl.data.sizes import DatasetSizes

__all__ = [
    "IMPORTERS",
    "BehaviourAgents",
    "CollectionRecipe",
    "ContextDraw",
    "DatasetError",
    "DatasetManifest",
    "DatasetSizes",
    "MetaReplayBuffer",
    "PPOSettings",
    "TaskDataset",
    "TaskSampler",
    "collect",
    "collect_task_dataset",
    "draw_context",
    "draw_episode",
    "from_minari",
    "get_recipe",
    "import_dataset",
    "import_released",
    "import_unicorn",
    "library_versions",
    "recipe_names",
    "recipes_of",
    "register_agents",
    "register_recipe",
    "snapshot_returns",
    "to_minari",
]
