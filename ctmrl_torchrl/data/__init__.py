"""Offline data: datasets on disk, context draws, meta-batches, and import of released data."""

from ctmrl_torchrl.data.buffer import MetaReplayBuffer
from ctmrl_torchrl.data.dataset import TaskDataset
from ctmrl_torchrl.data.draws import ContextDraw
from ctmrl_torchrl.data.errors import DatasetError
from ctmrl_torchrl.data.importers import import_released
from ctmrl_torchrl.data.manifest import DatasetManifest, library_versions
from ctmrl_torchrl.data.sampler import TaskSampler, draw_context

__all__ = [
    "ContextDraw",
    "DatasetError",
    "DatasetManifest",
    "MetaReplayBuffer",
    "TaskDataset",
    "TaskSampler",
    "draw_context",
    "import_released",
    "library_versions",
]
