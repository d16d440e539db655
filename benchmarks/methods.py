"""Time of one update of every method against its floor, and of three expensive parts against their literal form.

python benchmarks/methods.py                                         # all, one thread: a quarter of an hour
python benchmarks/methods.py --methods csro er_trl --sizes quick --rounds 5
python benchmarks/methods.py --output results/benchmarks/methods.json

Every method is in its complete phase: encoder and policy learn, codes are in use, and the method's inner steps
belong to the update. All have the same sizes and policy loss (``comparison=shared``). The ways of ``compile`` and
the floor, the update's bare matrix products, take turns in one process. Timed apart are sampling and
``before_update_0``, in which GENTLE generates its transitions; it does so every 400 updates. Pretraining is cut
to one step.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from cases import at_released_sizes, make_config, random_dataset
from literal import LITERAL, in_double
from measure import four_digits, take_turns, write_json
from products import RecordProducts
from tensordict import TensorDictBase
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.recorded import RecordedGradients
from ctmrl_torchrl.training.build import Experiment, build_experiment, set_up_process
from ctmrl_torchrl.training.trainer import MetaTrainer

SIZES = {"released": at_released_sizes("point_robot"), "quick": ["env=point_robot", "preset=quick"]}
COMPLETE = ["schedule.representation_end=1", "schedule.policy_start=0"]
QUIET = ["comparison=shared", "device=cpu", "output.logger=none", "output.progress=false"]
#: the method's name and what it needs besides
METHODS: dict[str, list[str]] = {
    "ctmrl": ["method=ctmrl"],
    "ctmrl_paper": ["method=ctmrl_paper"],
    "focal": ["method=focal"],
    "csro": ["method=csro"],
    "corro": ["method=corro", "representation.contrast_steps=1", "representation.vae_steps=1"],
    "idaq": ["method=idaq"],
    "idaq, with its ensemble": ["method=idaq", "representation.ensemble=true"],
    "unicorn": ["method=unicorn"],
    "unicorn_sup": ["method=unicorn_sup"],
    "gentle": ["method=gentle", "representation.model_steps=1", "representation.model_rows=600"],
    "er_trl": ["method=er_trl"],
    "anole": ["method=anole"],
}
#: contexts of single transitions, all of the same number, have no draw of other trajectories
OF_TRANSITIONS = {"ctmrl_paper": ["context.different=false"]}
WAYS = ("false", "recorded")


def build(name: str, size: str, folder: Path, *more: str) -> Experiment:
    """An experiment on random data that has begun, in its complete phase."""
    places = [f"dataset.path={folder / 'data'}", f"run_dir={folder / 'run'}"]
    single = OF_TRANSITIONS.get(name, []) if size == "released" else []
    config = make_config([*SIZES[size], *METHODS[name], *single, *COMPLETE, *QUIET, *places, *more])
    set_up_process(torch.get_num_threads(), config.keep_memory)
    experiment = build_experiment(config)
    trainer = experiment.trainer
    if isinstance(trainer.differentiate, RecordedGradients):
        trainer.differentiate.patience = 0  # recorded in the first call, which is not timed
    trainer.begin()
    trainer.move_on(0)
    trainer.parts.before_update(0)
    experiment.loss.representation.warm_up = False
    return experiment


def sampled(trainer: MetaTrainer) -> TensorDictBase:
    """A meta-batch as it is drawn, before the parts change it."""
    parts, trainer.parts = trainer.parts, type(trainer.parts)([])
    try:
        return trainer.next_batch()
    finally:
        trainer.parts = parts


def one_update(trainer: MetaTrainer, drawn: TensorDictBase) -> None:
    """What follows the draw of a meta-batch: what the parts do with it, and the update."""
    batch = trainer.parts.batch(drawn.copy())
    trainer.parts.inner_steps(batch, lambda: trainer._contexts(batch))
    trainer.update(batch)


def measure_method(name: str, size: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Time, floor and the ratio of both for one method."""
    trainers = {way: build(name, size, folder, f"compile={way}").trainer for way in WAYS}
    written, recorded = trainers["false"], trainers["recorded"].differentiate
    drawn = sampled(written)
    one_update(written, drawn)
    with RecordProducts() as products:
        one_update(written, drawn)
    inner = written.parts.batch(drawn.copy())
    contestants = {
        "floor": products.bare(),
        "parts": lambda: written.parts.inner_steps(inner, lambda: written._contexts(inner)),
        "sampling": lambda: sampled(written),
    } | {way: lambda trainer=trainer: one_update(trainer, drawn) for way, trainer in trainers.items()}
    timings = take_turns(contestants, rounds=rounds)
    rare = take_turns({"store": lambda: written.parts.before_update(0)}, rounds=1, warm_up=0)["store"]
    assert isinstance(recorded, RecordedGradients)
    return {
        "method": name,
        "sizes": size,
        "overrides": [*SIZES[size], *METHODS[name]],
        "gflop": four_digits(products.gflop),
        "recordings": recorded.recordings,
        "timings": {key: timing.to_dict() for key, timing in timings.items()},
        "over_floor": {way: four_digits(timings[way].cpu / timings["floor"].cpu) for way in WAYS},
        "before_update_0_cpu_ms": four_digits(1e3 * rare.cpu),
    }


def measure_literal(name: str, size: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Times of a part in both forms, and how far their results lie apart in double precision."""
    method, make = LITERAL[name]
    length = ["context.kind=transitions", "context.length=200"] if size == "quick" else []
    experiment = build(method, size, folder, *length)
    batch = experiment.trainer.parts.batch(sampled(experiment.trainer))
    pairs = zip(*(form() for form in make(*in_double(experiment, batch))), strict=True)
    apart = max(((one - other).abs().max() / other.abs().max()).item() for one, other in pairs)
    ours, literal = make(experiment, batch)
    timings = take_turns({"ours": ours, "literal": literal}, rounds=rounds, warm_up=1)
    return {
        "part": name,
        "method": method,
        "sizes": size,
        "timings": {key: timing.to_dict() for key, timing in timings.items()},
        "ours_over_literal": four_digits(timings["ours"].cpu / timings["literal"].cpu),
        "largest_relative_difference": four_digits(apart),
        "equal": apart < 1e-8,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, log, write JSON after every row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--parts", nargs="*", choices=list(LITERAL), default=list(LITERAL))
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--transitions", type=int, default=14_000, help="of random data per task")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: dict[str, list[dict[str, Any]]] = {"rows": [], "literal": []}
    about = {"threads": 1, "rounds": chosen.rounds, "load_at_start": four_digits(os.getloadavg()[0])}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        random_dataset(make_task_set("point_robot", "repo"), chosen.transitions).save(folder / "data")
        for size in chosen.sizes:
            for kind, names, measure in (
                ("rows", chosen.methods, measure_method),
                ("literal", chosen.parts, measure_literal),
            ):
                for name in names:
                    rows[kind].append(measure(name, size, folder, chosen.rounds))
                    torchrl_logger.info(format_row(rows[kind][-1]))
                    if chosen.output is not None:
                        write_json(chosen.output, {**about, **rows})


def format_row(row: dict[str, Any]) -> str:
    """One line of the table."""
    head = f"{row['method']:24s} {row['sizes']:9s} "
    milliseconds = {name: timing["cpu_ms"] for name, timing in row["timings"].items()}
    times = "  ".join(f"{name} {value:,.1f}" for name, value in milliseconds.items())
    if "part" in row:
        return f"{head}{row['part']}: {times} ms, ratio {row['ours_over_literal']:.3f}, equal {row['equal']}"
    ratios = ", ".join(f"{way} {ratio:.2f}" for way, ratio in row["over_floor"].items())
    return f"{head}{times} ms; x floor: {ratios}; recordings {row['recordings']}"


if __name__ == "__main__":
    main()
