"""Shares of an update by the kind of operator, as written and recorded: what is left to make faster.

python benchmarks/kernels.py                      # preset quick, every phase and way
python benchmarks/kernels.py --ways false recorded --output results/benchmarks/kernels.json

PyTorch's profiler measures the time that each operator spends in itself. It makes every operator a little
slower, so the shares of the small ones are upper bounds. What the profiler does not see is Python: ``update.py``
has it, as the fixed cost.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import torch
from cases import make_case
from measure import four_digits, write_json
from torch.profiler import ProfilerActivity, profile
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.training.config import RECORDED

#: kinds of operators, by parts of their names; the first that fits counts
KINDS = {
    "products": ("mm", "_linear_pointwise"),
    "activations": ("relu", "clamp_min", "threshold", "tanh", "softplus"),
    "Adam and targets": ("Optimizer", "_fused_adam", "_foreach", "lerp"),
    "sums and elementwise": (
        "add",
        "sub",
        "mul",
        "div",
        "neg",
        "pow",
        "exp",
        "log",
        "sum",
        "mean",
        "norm",
        "max",
    ),
    "copies": ("copy", "clone", "cat", "stack", "index", "gather", "contiguous", "fill", "zero"),
    "autograd": ("autograd", "Backward"),
}
PHASES = ("representation", "joint", "policy")


def kind_of(name: str) -> str:
    """The kind of an operator.

    Examples:
        >>> kind_of("aten::addmm"), kind_of("aten::threshold_backward"), kind_of("aten::view")
        ('products', 'activations', 'views and the rest')
    """
    for kind, parts in KINDS.items():
        if any(part in name for part in parts):
            return kind
    return "views and the rest"


def kernel_shares(overrides: list[str], phase: str, updates: int) -> dict[str, float]:
    """The share of every kind in the operators' own time, and their number in an update."""
    trainer = make_case(overrides, phase=phase).trainer
    batch = trainer.next_batch()
    for _ in range(3):
        trainer.update(batch)
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        for _ in range(updates):
            trainer.update(batch)
    spent: Counter[str] = Counter()
    events = profiled.key_averages()
    for event in events:
        spent[kind_of(event.key)] += event.self_cpu_time_total
    whole = sum(spent.values())
    shares = {kind: four_digits(spent[kind] / whole) for kind in (*KINDS, "views and the rest")}
    return shares | {"operators": round(sum(event.count for event in events) / updates)}


def main() -> None:
    """Profile every phase in every way, log and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*", default=["env=point_robot", "preset=quick"])
    parser.add_argument("--ways", nargs="+", default=["false", *RECORDED], help="values of compile")
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for phase in arguments.phases:
        for way in arguments.ways:
            shares = kernel_shares([*arguments.overrides, f"compile={way}"], phase, arguments.updates)
            rows.append({"phase": phase, "compile": way, "shares": shares})
            torchrl_logger.info(f"{phase:15s} compile={way:9s} {shares}")
    if arguments.output is not None:
        write_json(arguments.output, {"overrides": arguments.overrides, "rows": rows})


if __name__ == "__main__":
    main()
