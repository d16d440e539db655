"""How time and memory grow: with tasks, context length, codes, dataset size and seeds in one process.

python benchmarks/scaling.py                                              # a quarter of an hour
python benchmarks/scaling.py --axes context codes --largest 0.5           # the lower half of two axes
python benchmarks/scaling.py --output results/benchmarks/scaling.json     # draws scaling.png beside it

Point-Robot, preset quick, everything learning at once (phase ``joint``), one thread; one size is changed at a
time. Every point is a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import make_case, updating
from drawing import plot_scaling
from measure import four_digits, in_fresh_process, take_turns, write_json
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.training.stacked import StackedTrainer

QUICK = ["env=point_robot", "preset=quick"]
#: transitions per task where the axis is not the dataset's size
FEW = 1_400


def _context(length: int) -> Callable[[], object]:
    return updating([*QUICK, "context.kind=transitions", f"context.length={length}"])


def _codes(number: int) -> Callable[[], object]:
    return updating([*QUICK, f"representation.codes={number}"])


def _tasks(number: int) -> Callable[[], object]:
    sizes = {"num_train": number, "num_test": number // 3, "transitions_per_task": FEW}
    return updating(QUICK, sizes=sizes)


def _dataset(transitions: int) -> Callable[[], object]:
    return updating(QUICK, sizes={"transitions_per_task": transitions // 40})


def _seeds(number: int) -> Callable[[], object]:
    trainers = [
        make_case([*QUICK, f"seed={seed}"], transitions_per_task=FEW).trainer for seed in range(number)
    ]
    stack = StackedTrainer(trainers, list(range(number)))
    return lambda: stack.update(torch.stack([trainer.next_batch() for trainer in trainers]))


#: what is varied: its sizes, and what makes the call to be timed
AXES: dict[str, tuple[str, tuple[int, ...], Callable[[int], Callable[[], object]]]] = {
    "tasks": ("training tasks in the dataset", (30, 300, 3_000), _tasks),
    "context": ("context transitions per task", (20, 64, 256, 1_024, 4_096), _context),
    "codes": ("codes", (2, 16, 128, 1_024), _codes),
    "dataset": ("transitions in the dataset", (40_000, 400_000, 4_000_000), _dataset),
    "seeds": ("seeds in one process", (1, 2, 3, 6), _seeds),
}


def measure_point(axis: str, size: int, rounds: int) -> dict[str, float]:
    """Median time of one sample and update."""
    torch.set_num_threads(1)
    timing = take_turns({"step": AXES[axis][2](size)}, rounds=rounds, warm_up=2)["step"]
    return {"size": size, **timing.to_dict()}


def measure_axis(axis: str, rounds: int, largest: float) -> dict[str, Any]:
    """All points of an axis; ``last_step``: growth of the time over the last step, per growth of the size."""
    name, sizes, _ = AXES[axis]
    kept = sizes[: max(2, round(largest * len(sizes)))]
    points = []
    for size in kept:
        point, memory = in_fresh_process(measure_point, axis, size, rounds)
        points.append({**point, "peak_memory_mb": memory})
        torchrl_logger.info(f"{name:32s} {size:10,d}  {point['cpu_ms']:9.1f} ms CPU  {memory:8.0f} MB")
    before, last = points[-2:]
    times = last["cpu_ms"] / before["cpu_ms"]
    return {"name": name, "points": points, "last_step": four_digits(times / (last["size"] / before["size"]))}


def main() -> None:
    """Measure, log, write JSON and a picture."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--largest", type=float, default=1.0, help="share of each axis that is measured")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    axes = {axis: measure_axis(axis, arguments.rounds, arguments.largest) for axis in arguments.axes}
    if arguments.output is not None:
        write_json(arguments.output, {"axes": axes})
        plot_scaling(json.loads(arguments.output.read_text())["axes"], arguments.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
