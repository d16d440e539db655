"""Time of an update: at the released sizes of every environment and in the quick preset, against its floor.

python benchmarks/update.py                                     # all, eager, one thread: a few minutes
python benchmarks/update.py --cases point_robot quick --threads 1 2 --compile
python benchmarks/update.py --output results/benchmarks/update.json

``update`` runs as written (``compile=false``); ``recorded`` and ``onednn`` are the ways of ``compile`` with these
names. The floor is the time of the update's bare matrix products in PyTorch, measured in turns with all of them.
The fixed cost is the time of the update as written with next to no numbers in it (two tasks, two transitions,
networks of width 2): what Python and the frameworks take, whatever the sizes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from cases import RELEASED_SIZES, make_case, released_code, released_sizes, updating
from measure import four_digits, in_fresh_process, repeat, take_turns, write_json
from products import RecordProducts
from shares import shares
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.recorded import has_onednn
from ctmrl_torchrl.training.config import RECORDED

#: what is left of the work when every size is next to nothing
NOTHING = [
    "batch.tasks=2", "batch.transitions=2", "context.kind=transitions", "context.length=2",
    "encoder.context_dim=2", "representation.codes=2",
]  # fmt: skip

CASES: dict[str, tuple[list[str], tuple[str, ...]]] = {
    **{env: (released_sizes(env), ("warm_up", "joint")) for env in RELEASED_SIZES},
    "point_robot, 100 transitions": (
        released_sizes("point_robot", "context.length=100"),
        ("warm_up", "joint"),
    ),
    "released code": (released_code("point_robot"), ("warm_up", "joint")),
    "released code, 100 transitions": (
        released_code("point_robot", "context.length=100"),
        ("warm_up", "joint"),
    ),
    "quick": (["env=point_robot", "preset=quick"], ("representation", "joint", "policy")),
}


def without_numbers(overrides: list[str]) -> list[str]:
    """The same experiment with networks of the same depth and next to nothing to compute."""
    case = make_case(overrides, transitions_per_task=400).config
    widths = {
        f"{group}.{field}": [2] * len(hidden)
        for group in ("encoder", "representation", "policy_loss")
        for field, hidden in vars(getattr(case, group)).items()
        if field.endswith("hidden")
    }
    return [*overrides, *NOTHING, *(f"{name}={hidden}".replace(" ", "") for name, hidden in widths.items())]


def measure_update(
    overrides: list[str], phase: str, *, rounds: int, compile: bool = False, memory: bool = True
) -> dict[str, Any]:
    """Everything about one case in one phase of its schedule."""
    case = make_case([*overrides, "compile=false"], phase=phase)
    device = case.loss.representation.codebook.codes.device
    trainer, batch = case.trainer, case.trainer.next_batch()
    trainer.update(batch)
    with RecordProducts() as products:
        trainer.update(batch)
    little = [*without_numbers(overrides), "compile=false"]
    empty = make_case(little, phase=phase, transitions_per_task=400).trainer
    nothing = empty.next_batch()
    ways = [way for way in RECORDED if way == "recorded" or has_onednn()] if device.type == "cpu" else []
    others = {way: make_case([*overrides, f"compile={way}"], phase=phase).trainer for way in ways}
    contestants = {
        "floor": products.bare(device),
        "update": lambda: trainer.update(batch),
        "sampling": trainer.next_batch,
        "fixed": lambda: empty.update(nothing),
    }
    for way, other in others.items():
        contestants[way] = lambda other=other: other.update(batch)
    if compile:
        compiled = make_case([*overrides, "compile=true"], phase=phase).trainer
        contestants["compiled update"] = lambda: compiled.update(batch)
    timings = take_turns(contestants, rounds=rounds)
    clock = "cpu" if device.type == "cpu" and torch.get_num_threads() == 1 else "wall"
    seconds = {name: getattr(timing, clock) for name, timing in timings.items()}
    whole = seconds["update"] + seconds["sampling"]
    return {
        "overrides": overrides,
        "phase": phase,
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gflop": four_digits(products.gflop),
        "timings": {name: timing.to_dict() for name, timing in timings.items()},
        "update_over_floor": four_digits(seconds["update"] / seconds["floor"]),
        "over_floor": {way: four_digits(seconds[way] / seconds["floor"]) for way in ways},
        "fixed_cost_share": four_digits(seconds["fixed"] / seconds["update"]),
        "sampling_share": four_digits(seconds["sampling"] / whole),
        "shares": shares(case, rounds=rounds),
        "peak_memory_mb": in_fresh_process(repeat, updating, overrides, phase)[1] if memory else None,
    }


def main() -> None:
    """Measure, log a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="time the compiled update as well (minutes)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure the peak memory")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        memory = threads == 1 and not arguments.no_memory
        for name in arguments.cases:
            overrides, phases = CASES[name]
            for phase in phases:
                row = measure_update(
                    overrides, phase, rounds=arguments.rounds, compile=arguments.compile, memory=memory
                )
                rows.append({"case": name, **row})
                torchrl_logger.info(format_row(rows[-1]))
                if arguments.output is not None:  # after every row: the whole takes long
                    write_json(arguments.output, {"rows": rows})


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    update = row["timings"]["update"]
    compiled = row["timings"].get("compiled update")
    return (
        f"{row['case']:30s} {row['phase']:15s} {row['threads']} thr {update['cpu_ms']:8.1f} ms CPU "
        f"{update['wall_ms']:8.1f} ms  {row['update_over_floor']:6.2f} x floor"
        f"  fixed {row['fixed_cost_share']:5.1%}  sampling {row['sampling_share']:5.1%}"
        + (f"  {row['peak_memory_mb']:6.0f} MB" if row["peak_memory_mb"] else "")
        + "".join(
            f"  {way} {row['timings'][way]['cpu_ms']:.1f} ms CPU, {ratio:.2f} x floor"
            for way, ratio in row["over_floor"].items()
        )
        + (f"  compiled {compiled['wall_ms']:.1f} ms" if compiled else "")
    )


if __name__ == "__main__":
    main()
