"""The oracle: the same policy loss on the same data, told the task's parameters in place of a context.

What separates it from the optimum is the policy's share of the missing return; the rest is the context's.
"""

from __future__ import annotations

from typing import Any

import torch
from tensordict import TensorDictBase
from torch import Tensor
from torchrl.objectives import LossModule, SoftUpdate
from tqdm.auto import trange

from ctmrl_torchrl.collectors import AdaptationRun, MetaTestCollector
from ctmrl_torchrl.data import ContextDraw, MetaReplayBuffer, TaskDataset, TaskSampler
from ctmrl_torchrl.envs import TaskSet, make_env, make_task_set, optimal_returns
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.problem import Problem
from ctmrl_torchrl.training import build
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.schedule import cosine_fall, total_loss
from ctmrl_torchrl.training.validate import validate_config


class ToldProtocol:
    """One measured episode per row, with the task's standardised parameters as its context.

    Args:
        parameters (Tensor): ``[tasks, k]``, a row per task id.
    """

    name = "oracle"
    episodes = 1

    def __init__(self, parameters: Tensor) -> None:
        self.parameters = parameters

    def reset(self, run: AdaptationRun) -> None:
        """Nothing is kept."""

    def context(self, run: AdaptationRun) -> Tensor:
        """The parameters of each row's task."""
        return self.parameters[run.task_ids]

    def collect(self, run: AdaptationRun) -> None:
        """Nothing is collected: everything is known."""


def train_oracle(config: ExperimentConfig) -> dict[str, Any]:
    """Train the configured policy loss on (observation, task parameters) and measure it.

    The sizes, rates and number of policy updates are the configuration's; encoder and representation play no
    part.

    Returns:
        plain dict: ``env``, ``tasks``, ``policy_loss``, ``preset``, ``seed``, ``updates`` and, per split,
        ``returns`` and ``optimum`` (None where unknown).
    """
    validate_config(config)
    build.set_up_process(config)
    task_set = make_task_set(config.env, config.tasks)
    dataset, device = build.obtain_dataset(config), build.resolve_device(config.device)
    parameters = task_set.standardized_parameters().to(device)
    problem = build.make_problem(task_set, dataset)
    torch.manual_seed(config.seed)
    policy = config.policy_loss.build(problem, parameters.shape[1]).to(device)
    start = config.schedule.policy_start
    updates = round(config.schedule.updates * (1.0 - start))
    _train(policy, _buffer(config, dataset, task_set), parameters, config, updates, start)
    optima = optimal_returns(task_set) if task_set.family.has_optimum else None
    splits = {"test": list(task_set.test_ids), "train": list(task_set.train_ids)}
    return {
        "env": config.env,
        "tasks": config.tasks,
        "policy_loss": config.policy_loss.label,
        "preset": config.preset,
        "seed": config.seed,
        "updates": updates,
        "returns": {
            split: _measure(policy, parameters, config, problem, task_set, ids)
            for split, ids in splits.items()
        },
        "optimum": {
            split: None if optima is None else optima[ids].mean().item() for split, ids in splits.items()
        },
    }


def _buffer(config: ExperimentConfig, dataset: TaskDataset, task_set: TaskSet) -> MetaReplayBuffer:
    sampler = TaskSampler(
        dataset,
        task_ids=task_set.train_ids,
        tasks_per_batch=config.batch.tasks,
        transitions_per_task=config.batch.transitions,
        context=ContextDraw(kind="transitions", length=1),
        num_contexts=1,
        repeat_tasks=config.batch.repeat_tasks,
    )
    return dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(config.seed))


def _train(
    policy: LossModule,
    buffer: MetaReplayBuffer,
    parameters: Tensor,
    config: ExperimentConfig,
    updates: int,
    start: float,
) -> None:
    rates = config.optimiser
    optimiser = torch.optim.Adam(policy.parameters(), rates.policy_rate, fused=True)
    targets = SoftUpdate(policy, tau=config.policy_loss.target_rate)
    for update in trange(updates, desc="oracle", disable=not config.output.progress):
        progress = start + (1.0 - start) * update / updates
        fall = cosine_fall(progress, rates.policy_decay_from, 1.0, rates.policy_final)
        optimiser.param_groups[0]["lr"] = rates.policy_rate * fall
        batch = buffer.sample().to(parameters.device)
        total_loss(policy(_told(batch, parameters))).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        targets.step()


def _told(batch: TensorDictBase, parameters: Tensor) -> TensorDictBase:
    """The policy transitions ``[T, B]`` with their task's parameters as context."""
    transitions = batch["transitions"]
    told = parameters[batch["task_id"]].unsqueeze(1).expand(*transitions.batch_size, -1)
    return transitions.set("task_context", told).set(("next", "task_context"), told)


def _measure(
    policy: LossModule,
    parameters: Tensor,
    config: ExperimentConfig,
    problem: Problem,
    task_set: TaskSet,
    task_ids: list[int],
) -> float:
    """Mean return of the deterministic policy."""
    rows = torch.tensor(task_ids).repeat_interleave(config.evaluation.final_repeats)
    collector = MetaTestCollector(
        make_env(config.env, rows, task_set=task_set, device=parameters.device),
        ActingPolicy(policy),
        config.encoder.build(problem),  # never asked
        task_ids=rows,
        horizon=task_set.family.horizon,
        context_dim=parameters.shape[1],
        return_key=task_set.family.return_key,
    )
    return collector.run(ToldProtocol(parameters), seed=config.evaluation.seed)["returns"].mean().item()
