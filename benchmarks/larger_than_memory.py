"""A memory-mapped dataset larger than memory: opening it, its statistics, and sampling from it.

python benchmarks/larger_than_memory.py                       # half as large again as memory: minutes
python benchmarks/larger_than_memory.py --gigabytes 1         # a look
python benchmarks/larger_than_memory.py --folder /big/disk --output results/benchmarks/larger_than_memory.json

Half cheetah's layout with random numbers, in the folder given (default: that of temporary files), removed at
the end. Rows are drawn from all of it, so that most have to be read from the disk. The peak memory counts the
pages of the files that happen to be in memory, which the system takes back when it needs them.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import four_digits, in_fresh_process, take_turns, write_json
from sampling import make_sampler
from tensordict import TensorDict
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data import DatasetManifest, TaskDataset
from ctmrl_torchrl.data.keys import describe_keys
from ctmrl_torchrl.data.layout import row_blocks
from ctmrl_torchrl.data.manifest import MANIFEST_FILE, TRANSITIONS_FOLDER
from ctmrl_torchrl.envs import make_task_set

ENV = "half_cheetah_vel"
SNAPSHOTS = 10


def memory_bytes() -> int:
    """Of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def empty_row() -> TensorDict:
    """One transition in the layout of a dataset."""
    family = make_task_set(ENV).family
    flag, number = torch.zeros(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64)
    observation = torch.zeros(1, family.observation_dim)
    following = {"observation": observation, "reward": torch.zeros(1, 1)}
    following |= dict.fromkeys(("done", "terminated", "truncated"), flag)
    root = {"observation": observation, "action": torch.zeros(1, family.action_dim), "next": following}
    return TensorDict(root | dict.fromkeys(("task_id", "trajectory_id", "snapshot_id"), number), [1])


def make(folder: Path, gigabytes: float) -> int:
    """Write a dataset block by block; returns its number of transitions."""
    tasks, row = make_task_set(ENV), empty_row()
    horizon = tasks.family.horizon
    leaves = list(row.values(True, True))
    per_row = sum(leaf.numel() * leaf.element_size() for leaf in leaves)
    trajectories = max(int(gigabytes * 1e9 / per_row) // (horizon * tasks.n_tasks), SNAPSHOTS)
    total = trajectories * horizon * tasks.n_tasks
    data = row.expand(total).memmap_like(folder / TRANSITIONS_FOLDER)
    for block in row_blocks(0, total):
        numbers = torch.arange(block.start, block.stop)
        trajectory = numbers // horizon
        last = (numbers % horizon == horizon - 1).unsqueeze(-1)
        part = data[block]
        for key in ("observation", ("next", "observation"), ("next", "reward")):
            part[key].normal_()
        part["action"].uniform_(-1.0, 1.0)
        part["next", "done"].copy_(last)
        part["next", "truncated"].copy_(last)
        part["task_id"].copy_(trajectory // trajectories)
        part["trajectory_id"].copy_(trajectory)
        part["snapshot_id"].copy_((trajectory % trajectories) * SNAPSHOTS // trajectories)
    counts = {"transitions": total, "trajectories": trajectories * tasks.n_tasks}
    counts |= {"tasks": tasks.n_tasks, "snapshots": SNAPSHOTS}
    manifest = DatasetManifest(
        env=ENV, preset=tasks.preset, horizon=horizon, tasks=tasks.to_dict(), counts=counts,
        keys=describe_keys(row),
    )  # fmt: skip
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    return total


def use(folder: Path, rounds: int) -> dict[str, Any]:
    """Seconds to open and to compute statistics, milliseconds of a meta-batch of the released sizes."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    dataset = TaskDataset.load(folder)
    opened = time.perf_counter()
    dataset.statistics(make_task_set(ENV).train_ids)
    known = time.perf_counter()
    buffer = dataset.replay_buffer(make_sampler(ENV, dataset), generator=torch.Generator().manual_seed(0))
    timing = take_turns({"sample": buffer.sample}, rounds=rounds, warm_up=1)["sample"]
    return {
        "open_s": four_digits(opened - start),
        "statistics_s": four_digits(known - opened),
        "sample": timing.to_dict(),
        "rows_per_sample": buffer.sampler.batch_size,
    }


def main() -> None:
    """Make, use, remove, log, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=1.5 * memory_bytes() / 1e9)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--rounds", type=int, default=51)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    try:
        start = time.perf_counter()
        total = make(folder, arguments.gigabytes)
        made = time.perf_counter() - start
        found, peak = in_fresh_process(use, folder, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    result = {
        "gigabytes": four_digits(arguments.gigabytes), "memory_gb": four_digits(memory_bytes() / 1e9),
        "transitions": total, "make_s": four_digits(made), **found, "peak_memory_mb": four_digits(peak),
    }  # fmt: skip
    for name, value in result.items():
        torchrl_logger.info(f"{name:18s} {value}")
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
