"""Cost of a meta-batch: 30 tasks with as many transitions as were released, in memory and memory-mapped.

python benchmarks/sampling.py            # half cheetah: 40 tasks x 135,000, as many rows as 30 x 180,000
python benchmarks/sampling.py --env point_robot --transitions 14000 --output results/benchmarks/sampling.json

Beside the buffer, in turns: the bare gather of the same rows, and one buffer per task with a Python loop.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import RELEASED_SIZES, make_config, random_dataset, released_sizes
from measure import four_digits, take_turns, write_json
from tensordict import TensorDictBase
from torchrl._utils import logger as torchrl_logger
from torchrl.data import TensorDictReplayBuffer
from torchrl.data.replay_buffers import TensorStorage

from ctmrl_torchrl.data import MetaReplayBuffer, TaskDataset, TaskSampler
from ctmrl_torchrl.data.layout import ID_KEYS
from ctmrl_torchrl.envs import make_task_set


def make_sampler(env: str, dataset: TaskDataset) -> TaskSampler:
    """The sampler of the released configuration."""
    config = make_config(released_sizes(env))
    return TaskSampler(
        dataset,
        task_ids=make_task_set(env).train_ids,
        tasks_per_batch=config.batch.tasks,
        transitions_per_task=config.batch.transitions,
        context=config.context.build(),
    )


def bare_gather(buffer: MetaReplayBuffer, data: TensorDictBase) -> Callable[[], object]:
    """``data[rows]`` with the rows of one draw, flat: what no sampler can do without."""
    _, info = buffer.sample(return_info=True)
    rows = info["index"].flatten()
    return lambda: data[rows]


def buffer_per_task(dataset: TaskDataset, sampler: TaskSampler) -> Callable[[], object]:
    """As many pipelines have it: a buffer for every task, drawn from one after the other and stacked."""
    data, draws = dataset.transitions, sum(sampler.sections)
    rows = data["task_id"].unique_consecutive(return_counts=True)[1].cumsum(0)
    buffers = [
        TensorDictReplayBuffer(storage=TensorStorage(data[start:stop]), batch_size=draws)
        for start, stop in zip([0, *rows[:-1]], rows, strict=True)
    ]
    tasks = torch.as_tensor(sampler.task_ids)

    def run() -> TensorDictBase:
        drawn = tasks[torch.randperm(len(tasks))[: sampler.tasks_per_batch]].tolist()
        return torch.stack([buffers[task].sample() for task in drawn])

    return run


def measure_sampling(env: str, transitions: int, *, rounds: int, folder: Path) -> dict[str, Any]:
    """Median milliseconds of every way to draw."""
    made = random_dataset(make_task_set(env), transitions)
    made.save(folder / "dataset")
    mapped = TaskDataset.load(folder / "dataset")
    contestants: dict[str, Callable[[], object]] = {}
    for name, dataset in (("in memory", made), ("memory-mapped", mapped)):
        sampler = make_sampler(env, dataset)
        buffer = dataset.replay_buffer(sampler, generator=torch.Generator().manual_seed(0))
        contestants[f"buffer, {name}"] = buffer.sample
        contestants[f"bare gather, {name}"] = bare_gather(buffer, dataset.transitions.exclude(*ID_KEYS))
    contestants["a buffer per task, stacked"] = buffer_per_task(made, make_sampler(env, made))
    timings = take_turns(contestants, rounds=rounds)
    reference = timings["buffer, in memory"].cpu
    leaves = made.transitions.values(include_nested=True, leaves_only=True)
    return {
        "env": env,
        "transitions": made.n_transitions,
        "megabytes": four_digits(sum(leaf.numel() * leaf.element_size() for leaf in leaves) / 1e6),
        "rows_per_batch": make_sampler(env, made).batch_size,
        "timings": {
            name: timing.to_dict() | {"times_buffer_in_memory": four_digits(timing.cpu / reference)}
            for name, timing in timings.items()
        },
    }


def main() -> None:
    """Measure, log a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="half_cheetah_vel", choices=sorted(RELEASED_SIZES))
    parser.add_argument("--transitions", type=int, default=135_000, help="per task, test tasks included")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        result = measure_sampling(
            arguments.env, arguments.transitions, rounds=arguments.rounds, folder=folder
        )
    finally:
        shutil.rmtree(folder)
    for name, entry in result["timings"].items():
        torchrl_logger.info(
            f"{name:28s} {entry['cpu_ms']:8.2f} ms CPU  {entry['times_buffer_in_memory']:.2f} x"
        )
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
