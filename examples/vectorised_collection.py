"""Batched environments in a TorchRL collector, and a task dataset from a custom behavior policy.

python examples/vectorised_collection.py datasets/walkers --episodes 20
python examples/train_ctmrl.py dataset.path=datasets/walkers
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.collectors import Collector
from torchrl.envs.utils import RandomPolicy

from ctmrl_torchrl.data import DatasetManifest, TaskDataset
from ctmrl_torchrl.envs import make_env, make_task_set

KEYS = ("observation", "action", ("next", "observation"), ("next", "reward"), ("next", "sparse_reward"))
FLAGS = (("next", "done"), ("next", "terminated"), ("next", "truncated"))


class NoisyWalk(nn.Module):
    """Walks toward each row's goal with noise: a behavior policy that knows its tasks."""

    def __init__(self, goals: torch.Tensor, noise: float) -> None:
        super().__init__()
        self.goals, self.noise = goals, noise

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        """Compute actions in [-1, 1]; one step covers at most a tenth."""
        wanted = 10.0 * (self.goals - observation)
        return (wanted + self.noise * torch.randn_like(wanted)).clamp(-1.0, 1.0)


def play(env, policy, episodes: int, horizon: int) -> TensorDictBase:
    """``episodes`` whole episodes of every row, ``[rows, episodes, horizon]``, by TorchRL's collector."""
    frames = env.batch_size.numel() * horizon * episodes
    collector = Collector(
        env, policy, frames_per_batch=frames, total_frames=frames, auto_register_policy_transforms=False
    )
    (batch,) = list(collector)
    collector.shutdown()
    return batch.select(*KEYS, *FLAGS, strict=False).reshape(-1, episodes, horizon)


def main() -> None:
    """Collect one behavior at a time on all tasks in parallel; then write one file for all."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--episodes", type=int, default=40, help="per task and behaviour")
    parser.add_argument("--noises", type=float, nargs="+", default=[4.0, 2.0, 1.0, 0.5])
    arguments = parser.parse_args()
    torch.manual_seed(0)
    tasks = make_task_set("point_robot")
    rows = torch.arange(tasks.n_tasks)
    goals, horizon = tasks.parameters.float(), tasks.family.horizon
    behaviours = []
    for noise in [None, *arguments.noises]:
        env = make_env("point_robot", rows, task_set=tasks)
        walk = TensorDictModule(NoisyWalk(goals, noise or 0.0), ["observation"], ["action"])
        policy = RandomPolicy(env.action_spec) if noise is None else walk
        behaviours.append(play(env, policy, arguments.episodes, horizon))
    data = torch.stack(behaviours, 1)  # [tasks, behaviors, episodes, time], the order of a dataset
    grid = torch.meshgrid(*(torch.arange(size) for size in data.shape), indexing="ij")
    data["task_id"], data["snapshot_id"] = grid[0], grid[1]
    data["trajectory_id"] = (grid[0] * data.shape[1] + grid[1]) * data.shape[2] + grid[2]
    manifest = DatasetManifest(
        env="point_robot",
        preset=tasks.preset,
        horizon=horizon,
        tasks=tasks.to_dict(),
        snapshots=[{"id": index} for index in range(len(behaviours))],
        recipe={"name": "noisy walk", "noises": arguments.noises},
    )
    dataset = TaskDataset.from_tensordict(data.reshape(-1), manifest)
    print(f"{dataset.save(arguments.path)}: {dataset.n_transitions} transitions of {tasks.n_tasks} tasks")
    for index in range(len(behaviours)):
        returns = dataset.trajectory_returns()[dataset.trajectory_snapshot == index]
        print(f"behaviour {index}: mean return {returns.mean():.2f}")


if __name__ == "__main__":
    main()
