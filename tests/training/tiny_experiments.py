"""Experiments of a second: a few updates of networks with eight hidden units."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetManifest, TaskDataset
from ctmrl_torchrl.methods import CQVAEConfig
from ctmrl_torchrl.modules import EncoderConfig
from ctmrl_torchrl.objectives.policy import BRACSACConfig
from ctmrl_torchrl.training.config import (
    BatchConfig,
    ContextConfig,
    DatasetConfig,
    EvaluationConfig,
    ExperimentConfig,
    OutputConfig,
    ScheduleConfig,
)

SECTIONS = {
    "dataset": DatasetConfig(recipe="smoke"),
    "context": ContextConfig(trajectories=[1, 2], behaviours=[1, 2]),
    "batch": BatchConfig(tasks=4, transitions=16),
    "encoder": EncoderConfig(context_dim=4, hidden=[8, 8]),
    "representation": CQVAEConfig(
        codes=2,
        predictor_hidden=[8],
        kmeans_epochs=8,
        kmeans_from=0.2,
        kmeans_at=0.5,
        kmeans_refreshes=8,
    ),
    "policy_loss": BRACSACConfig(hidden=[8]),
    "schedule": ScheduleConfig(updates=20, representation_end=0.8),
    "evaluation": EvaluationConfig(
        every=10, repeats=1, final_repeats=1, episodes=3, random_episodes=2, protocols=["codes"]
    ),
    "output": OutputConfig(log_every=4, checkpoint_every=5, logger="none", progress=False, figures=False),
}


def tiny_config(dataset_root, run_dir, changes=None, **fields):
    """A configuration without Hydra; ``changes`` are ``{"schedule.updates": 3}``, any values."""
    sections = copy.deepcopy(SECTIONS)
    config = ExperimentConfig(run_dir=str(run_dir), device="cpu", preset="tiny", **(sections | fields))
    config.dataset.root = str(dataset_root)
    for name, value in (changes or {}).items():
        *groups, field = name.split(".")
        target = config
        for group in groups:
            target = getattr(target, group)
        setattr(target, field, value)
    return config


def random_transitions(
    tasks, horizon, observation_dim=2, action_dim=2, snapshots=3, episodes=6, rewards=("reward",)
):
    """Rows of a dataset without any behaviour: random numbers in whole episodes."""
    generator = torch.Generator().manual_seed(0)
    shape = (tasks, snapshots, episodes, horizon)

    def draw(size):
        return torch.randn(*shape, size, generator=generator)

    end = torch.zeros(*shape, 1, dtype=torch.bool)
    end[..., -1, :] = True
    following = {"observation": draw(observation_dim), "done": end, "truncated": end.clone()}
    following |= {"terminated": torch.zeros_like(end)} | {name: draw(1) for name in rewards}
    task, snapshot, _, _ = torch.meshgrid(*(torch.arange(size) for size in shape), indexing="ij")
    trajectory = torch.arange(task.numel() // horizon).view(shape[:3])[..., None].expand(shape)
    return TensorDict(
        {
            "observation": draw(observation_dim),
            "action": draw(action_dim).tanh(),
            "next": following,
            "task_id": task,
            "snapshot_id": snapshot,
            "trajectory_id": trajectory,
        },
        shape,
    ).flatten()


def random_dataset(task_set):
    """Random data of a family's tasks, made in milliseconds."""
    family = task_set.family
    rewards = dict.fromkeys(("reward", family.return_key[-1]))
    sizes = (task_set.n_tasks, family.horizon, family.observation_dim, family.action_dim)
    manifest = DatasetManifest(
        env=task_set.name, preset=task_set.preset, horizon=family.horizon, tasks=task_set.to_dict()
    )
    return TaskDataset.from_tensordict(random_transitions(*sizes, rewards=rewards), manifest)


def metric_rows(run_dir):
    with (Path(run_dir) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["step", "name", "value"]
    return rows
