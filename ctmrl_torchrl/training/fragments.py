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
from ctmrl_torchrl.modules.draws import uniform

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


def draw_fragments(
    lengths: Tensor, count: int, steps: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Sample the starts of fragments uniformly, each within one episode.

    Args:
        lengths (Tensor): ``[T, J]``, length of every episode of every task; 0 for missing episodes.
        count (int): fragments per task. steps (int): length of a fragment, at most the longest episode of each
            task.
        generator (torch.Generator, optional): samples them.

    Returns:
        episode and first step of each fragment, ``[T, count]`` int64 each.

    Raises:
        ValueError: if all episodes of a task are too short; the message contains the maximum length.

    Source: ANOLE (NeurIPS 2022); the release lets fragments cross episodes.

    Examples:
        >>> episode, start = draw_fragments(torch.tensor([[5, 2]]), 100, 4)
        >>> episode.unique().tolist(), start.unique().tolist()
        ([0], [0, 1])
    """
    places = (lengths - steps + 1).clamp_min(0)
    total = places.cumsum(-1)
    if (total[:, -1] == 0).any():
        longest = int(lengths.amax(-1).min())
        raise ValueError(
            f"draw_fragments: for some task no episode has {steps} steps; use at most {longest}."
        )
    share = uniform((len(lengths), count), generator, total.device)
    place = (share * total[:, -1:]).long()
    episode = torch.searchsorted(total, place, right=True)
    return episode, place - (total - places).gather(-1, episode)
