"""Small hand-made datasets for the tests of the data room."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetManifest, TaskDataset

# (task id, snapshot id, length) of each trajectory, in the order of the dataset
Trajectories = Sequence[tuple[int, int, int]]


def even(n_tasks: int = 4, snapshots: int = 3, trajectories: int = 5, length: int = 4) -> Trajectories:
    return [(t, s, length) for t in range(n_tasks) for s in range(snapshots) for _ in range(trajectories)]


def make_manifest(
    trajectories: Trajectories, horizon: int, env: str = "point_robot", **fields
) -> DatasetManifest:
    n_tasks = max(task for task, _, _ in trajectories) + 1
    ids = list(range(n_tasks))
    tasks = {
        "parameters": [[float(i), 0.0] for i in ids],
        "parameter_names": ["x", "y"],
        "train_ids": [i for i in ids if i % 4 != 2],
        "test_ids": [i for i in ids if i % 4 == 2],
    }
    snapshots = [
        {"id": s, "step": s * 100, "mean_return": -1.0} for s in sorted({s for _, s, _ in trajectories})
    ]
    return DatasetManifest(
        env=env, preset="repo", horizon=horizon, tasks=tasks, snapshots=snapshots, **fields
    )


def make_transitions(trajectories: Trajectories, horizon: int, sparse: bool = False) -> TensorDict:
    """The observation says which row it is: (trajectory, step); the reward is the task id."""
    length = torch.tensor([n for _, _, n in trajectories])
    trajectory = torch.arange(len(trajectories)).repeat_interleave(length)
    start = (length.cumsum(0) - length).repeat_interleave(length)
    step = torch.arange(int(length.sum())) - start
    task = torch.tensor([t for t, _, _ in trajectories]).repeat_interleave(length)
    snapshot = torch.tensor([s for _, s, _ in trajectories]).repeat_interleave(length)
    last = (step == length.repeat_interleave(length) - 1)[:, None]
    observation = torch.stack([trajectory, step], 1).float()
    truncated = last & (step == horizon - 1)[:, None]
    following = {
        "observation": observation + torch.tensor([0.0, 1.0]),
        "reward": task[:, None].float(),
        "done": last,
        "terminated": last & ~truncated,
        "truncated": truncated,
    }
    if sparse:
        following["sparse_reward"] = (step[:, None] % 2).float()
    generator = torch.Generator().manual_seed(0)
    return TensorDict(
        {
            "observation": observation,
            "action": 2 * torch.rand(len(task), 2, generator=generator) - 1,
            "next": following,
            "task_id": task,
            "trajectory_id": trajectory,
            "snapshot_id": snapshot,
        },
        [len(task)],
    )


def make_dataset(trajectories: Trajectories | None = None, horizon: int = 4, **fields) -> TaskDataset:
    trajectories = even(length=horizon) if trajectories is None else trajectories
    return TaskDataset.from_tensordict(
        make_transitions(trajectories, horizon), make_manifest(trajectories, horizon, **fields)
    )
