"""What is timed: whole experiments at the released sizes and in the quick preset, on random data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetManifest, TaskDataset
from ctmrl_torchrl.envs import TaskSet, make_task_set
from ctmrl_torchrl.objectives.meta import MetaLoss
from ctmrl_torchrl.recorded import RecordedGradients
from ctmrl_torchrl.training.build import make_loss, make_optimizer, parameter_groups, resolve_device
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.data import make_buffer, make_problem
from ctmrl_torchrl.training.heap import keep_freed_memory
from ctmrl_torchrl.training.trainer import MetaTrainer

#: tasks per batch and context transitions of the released configurations; 256 transitions per task in all
RELEASED_SIZES = {
    "point_robot": (16, 1024),
    "point_robot_wind": (16, 1024),
    "sparse_point_robot": (16, 1024),
    "half_cheetah_vel": (16, 100),
    "hopper_rand_params": (16, 256),
    "walker_rand_params": (16, 256),
    "ant_goal": (10, 512),
}


#: weight of CSRO's bound in the released configurations, where it is not 25
CLUB_WEIGHTS = {"half_cheetah_vel": 10, "ant_goal": 50}


def at_released_sizes(env: str) -> list[str]:
    """Overrides of any method: batch, context and networks of the released configurations."""
    tasks, length = RELEASED_SIZES[env]
    sizes = (f"batch.tasks={tasks}", "context.kind=transitions", f"context.length={length}")
    penalty = () if "point" in env else ("policy_loss=brac_sac", "policy_loss.behaviour_penalty=true")
    return [f"env={env}", "preset=paper", "tasks=repo", *sizes, *penalty]


def released_sizes(env: str, *more: str) -> list[str]:
    """Overrides of the paper's method at the released sizes, with contexts of single transitions."""
    return [*at_released_sizes(env), "representation.predict=context", *more]


def released_code(env: str, *more: str) -> list[str]:
    """Overrides of the released code's objective, at its sizes."""
    weight = f"representation.club_weight={CLUB_WEIGHTS.get(env, 25)}"
    return [*at_released_sizes(env), "method=ctmrl_released", weight, *more]


@dataclass
class Case:
    """A trainer ready to update, and what it was made from."""

    config: ExperimentConfig
    task_set: TaskSet
    dataset: TaskDataset
    loss: MetaLoss
    trainer: MetaTrainer


def make_config(overrides: list[str]) -> ExperimentConfig:
    """The configuration that a command line with these overrides would have."""
    return compose_config(overrides)


def random_dataset(task_set: TaskSet, transitions_per_task: int, snapshots: int = 14) -> TaskDataset:
    """Random numbers in the layout of an offline dataset: full episodes of ``snapshots`` behaviors."""
    family = task_set.family
    trajectories = max(transitions_per_task // family.horizon, snapshots)
    total = trajectories * family.horizon * task_set.n_tasks
    draw = torch.Generator().manual_seed(0)
    row = torch.arange(total)
    trajectory = row // family.horizon
    last = (row % family.horizon == family.horizon - 1).unsqueeze(-1)

    def normal(size: int) -> torch.Tensor:
        return torch.randn(total, size, generator=draw)

    following = {"observation": normal(family.observation_dim), "reward": normal(1), "done": last}
    following |= {"truncated": last, "terminated": torch.zeros_like(last)}
    if family.return_key != ("next", "reward"):
        following[family.return_key[-1]] = normal(1)
    transitions = {
        "observation": normal(family.observation_dim),
        "action": normal(family.action_dim).tanh_(),
        "next": following,
        "task_id": trajectory // trajectories,
        "trajectory_id": trajectory,
        "snapshot_id": (trajectory % trajectories) * snapshots // trajectories,
    }
    manifest = DatasetManifest(
        env=family.name, preset=task_set.preset, horizon=family.horizon, tasks=task_set.to_dict()
    )
    return TaskDataset.from_tensordict(TensorDict(transitions, [total]), manifest)


def make_case(
    overrides: list[str],
    *,
    phase: str = "joint",
    transitions_per_task: int = 14_000,
    num_train: int | None = None,
    num_test: int | None = None,
) -> Case:
    """Build a trainer.

    Args:
        overrides: of the configuration.
        phase: ``"warm_up"`` (prediction and policy), ``"joint"`` (everything), ``"representation"`` (no
            policy) or ``"policy"`` (encoder fixed).
        transitions_per_task: of random data.
        num_train, num_test: numbers of tasks; default: the preset's.
    """
    config = make_config(overrides)
    if config.keep_memory:
        keep_freed_memory()
    device = resolve_device(config.device)
    task_set = make_task_set(config.env, config.tasks, num_train=num_train, num_test=num_test)
    dataset = random_dataset(task_set, transitions_per_task)
    problem, generator = make_problem(task_set, dataset), torch.Generator().manual_seed(0)
    loss = make_loss(config.encoder, config.representation, config.policy_loss, problem, config.seed)
    loss = loss.to(device)
    groups = parameter_groups(config.representation, config.policy_loss, loss)
    trainer = MetaTrainer(
        loss,
        make_buffer(dataset, task_set.train_ids, config.batch, config.context.build(), generator),
        make_optimizer(config.optimizer, groups, device),
        config.policy_loss.target_update(loss.policy),
        updates=1,
        device=device,
        compile=config.compile,
    )
    if isinstance(trainer.differentiate, RecordedGradients):
        trainer.differentiate.patience = 0  # recorded in the first call, which is not timed
    trainer.begin()
    loss.representation_frozen, loss.policy_frozen = phase == "policy", phase == "representation"
    loss.representation.warm_up = phase == "warm_up"
    return Case(config, task_set, dataset, loss, trainer)


def updating(overrides: list[str], phase: str = "joint", sizes: dict | None = None) -> Callable[[], object]:
    """Sample and update: what a training repeats; ``sizes`` as for :func:`make_case`."""
    trainer = make_case(overrides, phase=phase, **(sizes or {})).trainer
    return lambda: trainer.update(trainer.next_batch())
