"""Offline data: datasets on disk, context draws, meta-batches, and import of released data."""

from ctmrl_torchrl.data.buffer import MetaReplayBuffer
from ctmrl_torchrl.data.collect import collect_task_dataset, snapshot_returns
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
from ctmrl_torchrl.data.recipes import RECIPE_NAMES, CollectionRecipe, get_recipe, recipes_of
from ctmrl_torchrl.data.sampler import TaskSampler, draw_context
from ctmrl_torchrl.data.sizes import DatasetSizes

__all__ = [
    "IMPORTERS",
    "RECIPE_NAMES",
    "CollectionRecipe",
    "ContextDraw",
    "DatasetError",
    "DatasetManifest",
    "DatasetSizes",
    "MetaReplayBuffer",
    "TaskDataset",
    "TaskSampler",
    "collect_task_dataset",
    "draw_context",
    "from_minari",
    "get_recipe",
    "import_dataset",
    "import_released",
    "import_unicorn",
    "library_versions",
    "recipes_of",
    "snapshot_returns",
    "to_minari",
]
