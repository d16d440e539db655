"""Time of an update on a GPU, sampling included, as written and as a CUDA graph.

python benchmarks/gpu.py                                             # every method: three minutes on an H200
python benchmarks/gpu.py --methods ctmrl --ways false recorded true --cpu
python benchmarks/gpu.py --output results/benchmarks/gpu.json

All methods are in their complete phase and have the same sizes and policy loss, as in ``methods.py``. The ways of
``compile`` take turns. ``--cpu`` adds the same update on one thread of this machine's processor.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from cases import make_config, random_dataset
from measure import four_digits, take_turns, write_json
from methods import METHODS, SIZES, build
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.recorded import RecordedGradients
from ctmrl_torchrl.training.trainer import MetaTrainer


def updating(trainer: MetaTrainer) -> Any:
    """What a training repeats, counted, because stores are rebuilt at intervals."""

    def update() -> None:
        trainer.update(trainer.next_batch())
        trainer.update_count += 1

    return update


def measure_method(name: str, size: str, folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of an update by way."""
    trainers = {
        way: build(name, size, folder, f"device={args.device}", f"compile={way}").trainer for way in args.ways
    }
    taken = take_turns(
        {way: updating(trainer) for way, trainer in trainers.items()},
        rounds=args.rounds,
        calls=args.calls,
        warm_up=5,
    )
    found = {way: four_digits(1e3 * timing.wall) for way, timing in taken.items()}
    if args.cpu:
        trainer = build(name, size, folder, "device=cpu", "compile=recorded").trainer
        taken = take_turns({"cpu": updating(trainer)}, rounds=args.rounds, warm_up=2)
        found["cpu, recorded"] = four_digits(1e3 * taken["cpu"].wall)
    graphs = [each.differentiate for each in trainers.values()]
    return {
        "method": name,
        "sizes": size,
        "update_ms": found,
        "recordings": sum(each.recordings for each in graphs if isinstance(each, RecordedGradients)),
    }


def main() -> None:
    """Measure and print, or write a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--sizes", nargs="+", default=list(SIZES), choices=SIZES)
    parser.add_argument("--ways", nargs="+", default=["false", "recorded"])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cpu", action="store_true", help="also time one thread of the processor")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("This machine has no GPU; benchmarks/methods.py measures updates on a CPU.")
    torch.set_num_threads(1)
    results = []
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            config = make_config(SIZES[size])
            random_dataset(make_task_set(config.env, config.tasks), 3_000).save(Path(folder) / "data")
            for name in args.methods:
                results.append(measure_method(name, size, Path(folder), args))
                torchrl_logger.info(str(results[-1]))
    if args.output is not None:
        write_json(args.output, {"updates": results})


if __name__ == "__main__":
    main()
