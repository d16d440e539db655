"""Episode fragments of the training tasks, which a preference oracle compares, and their returns in any task."""

from __future__ import annotations

import torch
from tensordict import TensorDictBase
from torch import Tensor

from ctmrl_torchrl.collectors import FragmentSource
from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.data.buffer import take_rows
from ctmrl_torchrl.data.layout import ID_KEYS
from ctmrl_torchrl.envs import TaskSet
from ctmrl_torchrl.envs.families import load_entry_point
from ctmrl_torchrl.objectives.representation.preferences import draw_fragments

#: length of a fragment in steps, if episodes are long enough
STEPS = 64


def stored_fragments(dataset: TaskDataset, task_set: TaskSet, device: torch.device) -> FragmentSource | None:
    """The source of fragments, or None if all tasks share one reward function.

    Each fragment lies within one episode of a training task. Its value is the sum of the rewards that the
    policy learns from, because most fragments would tie under a sparse reported reward.
    """
    if task_set.family.task_rewards is None:
        return None
    rewards = load_entry_point(task_set.family.task_rewards)
    training = torch.isin(dataset.trajectory_task, torch.as_tensor(list(task_set.train_ids)))
    lengths, starts = dataset.trajectory_length[training], dataset.trajectory_start[training]

    def draw(count: int, generator: torch.Generator) -> TensorDictBase:
        steps = min(STEPS, int(lengths.max()))
        episode, first = draw_fragments(lengths.unsqueeze(0), count, steps, generator)
        rows = (starts[episode[0]] + first[0]).unsqueeze(-1) + torch.arange(steps)
        return take_rows(dataset.transitions.exclude(*ID_KEYS), rows).to(device)

    def returns(fragments: TensorDictBase, task_ids: Tensor) -> Tensor:
        tasks, row = task_ids.unique(return_inverse=True)
        return rewards(task_set, tasks, fragments).sum(-1)[row.to(fragments.device)]

    return FragmentSource(draw, returns)
