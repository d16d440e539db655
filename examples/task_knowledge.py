"""How much is knowing the task worth on a dataset? Behavior cloning, told the task parameters and told nothing.

    python examples/task_knowledge.py env=hopper_rand_params preset=cpu --best-share 0.1

Both policies imitate the best trajectories of the training tasks, by return. If "told nothing" does as well as
"told", no context can help much on these data. If "told" is far below the behavior on training tasks, extraction
limits an agent; if it is far below on unseen tasks only, generalization does. Without the data, it takes half a
minute of one CPU core. Overrides are those of ``ctmrl train``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import MLP

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.data.best import BestRows
from ctmrl_torchrl.envs import TaskSet, first_episodes, make_env
from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.evaluation.statistics import bootstrap_interval
from ctmrl_torchrl.training.build import set_up_process
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.data import obtain_data
from ctmrl_torchrl.training.validate import validate_config


class Imitator(nn.Module):
    """An action from the observation and what the policy is told of the task."""

    def __init__(self, dataset: TaskDataset, tasks: TaskSet, told: bool, width: int) -> None:
        super().__init__()
        mean, deviation = dataset.statistics(tasks.train_ids)["observation"]
        known = tasks.standardized_parameters().float() * told
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation.clamp(min=1e-3))
        self.register_buffer("known", known)
        inputs, outputs = mean.numel() + known.shape[1], dataset.transitions["action"].shape[-1]
        self.network = MLP(inputs, outputs, num_cells=[width, width], activation_class=nn.ReLU)

    def forward(self, observation: Tensor, task_id: Tensor) -> Tensor:
        """Actions ``[*, action]`` for observations of the tasks ``task_id``."""
        inputs = torch.cat([(observation - self.mean) / self.deviation, self.known[task_id.flatten()]], -1)
        return self.network(inputs).tanh()


def imitate(
    dataset: TaskDataset, tasks: TaskSet, *, told: bool, share: float, updates: int, width: int, seed: int
) -> Imitator:
    """Fit the actions of the best ``share`` of each training task's trajectories by least squares."""
    torch.manual_seed(seed)
    policy = Imitator(dataset, tasks, told, width)
    best = BestRows.of(dataset.rows, dataset.trajectory_returns(tasks.family.return_key), share)
    positions, generator = dataset.task_index(tasks.train_ids), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
    each = -(-1024 // len(positions))
    for _ in range(updates):
        batch = dataset.transitions[best.draw(positions, each, generator).flatten()]
        error = policy(batch["observation"], batch["task_id"]) - batch["action"]
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        schedule.step()
    return policy


@torch.no_grad()
def task_returns(policy: Imitator, tasks: TaskSet, task_ids: list[int], episodes: int, seed: int) -> Tensor:
    """Mean return of each task ``[tasks]``."""
    family = tasks.family
    env = make_env(family.name, torch.tensor(task_ids).repeat_interleave(episodes), task_set=tasks, seed=seed)
    actor = TensorDictModule(policy, in_keys=["observation", "task_id"], out_keys=["action"])
    played = env.rollout(family.horizon, actor, break_when_any_done=False)
    env.close()
    returns = first_episodes(played[family.return_key], played["next", "done"]).sum((1, 2))
    return returns.reshape(len(task_ids), episodes).mean(1)


def main() -> None:
    """Make or find the data, imitate twice, print and write a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--best-share", type=float, default=0.1, help="of each task's trajectories, by return"
    )
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--episodes", type=int, default=4, help="per task")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options, overrides = parser.parse_known_args()
    with told_plainly():
        config = compose_config(overrides)
        validate_config(config)
        set_up_process(config.threads, config.keep_memory)
        dataset, tasks = obtain_data(
            config.dataset, config.env, config.tasks, progress=config.output.progress
        )
    behavior = dataset.manifest.oracle or {}
    table: dict[str, Any] = {"env": config.env, "seed": config.seed, "best_share": options.best_share}
    table |= {
        "updates": options.updates,
        "behavior": {name: behavior.get(name) for name in ("train", "test")},
    }
    for name, told in (("told", True), ("told nothing", False)):
        fit = {"share": options.best_share, "updates": options.updates, "width": options.width}
        policy = imitate(dataset, tasks, told=told, seed=config.seed, **fit)
        table[name] = {}
        for split, ids in (("train", tasks.train_ids), ("test", tasks.test_ids)):
            returns = task_returns(policy, tasks, list(ids), options.episodes, config.seed)
            interval = [round(bound, 1) for bound in bootstrap_interval(returns.numpy())]
            table[name][split] = {"mean": round(returns.mean().item(), 1), "ci95": interval}
            print(f"{config.env} {name:12} {split:5} {table[name][split]['mean']:8.1f} {interval}")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
