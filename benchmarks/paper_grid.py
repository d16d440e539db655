"""What the full grid of preset ``paper`` needs: core hours, and the sizes of datasets and of a checkpoint.

python benchmarks/paper_grid.py --output results/studies/paper_grid.json      # a minute of a quiet machine

The grid is that of ``configs/study/table1.yaml`` with ``comparison=shared`` and ``preset=paper``: nine methods,
seven environments, six seeds. ``results/benchmarks/update.json`` holds the CPU time of an update of the paper's
objective in every environment at the released sizes. The methods are timed relative to it, on Point-Robot with
fewer tasks in a batch and 256 context transitions, all in turns. Every update counts as one with all terms, which
is an upper bound: a warm-up, and phases that train only the encoder or only the policy, are cheaper. Meta-tests
of MuJoCo robots count by the speed of a rollout in ``results/benchmarks/simulator-*.json``, with the most
episodes that a protocol can take; those of point robots, two minutes a run, are left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from cases import make_case, make_config
from measure import four_digits, take_turns, write_json
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data.behaviour import get_recipe
from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.studies import load_study
from ctmrl_torchrl.training.trainer import MetaTrainer

RESULTS = Path(__file__).parents[1] / "results"
GRID = load_study("table1")
ENVS, METHODS, SEEDS = (GRID.factors[name] for name in ("env", "method", "seed"))
#: the objective that ``update.json`` timed
REFERENCE = ["method=ctmrl", "representation.predict=context"]


def make_trainer(tasks: int, *more: str) -> MetaTrainer:
    """A trainer of Point-Robot with so many tasks in a batch."""
    sizes = [
        f"batch.tasks={tasks}",
        "context.kind=transitions",
        "context.length=256",
        "context.different=false",
    ]
    overrides = ["preset=paper", "tasks=repo", "compile=false", *sizes, *more]
    return make_case(overrides, transitions_per_task=1_400).trainer


def relative_times(tasks: int, rounds: int) -> dict[str, float]:
    """The time of an update of every method, sampling included, relative to the paper's objective."""
    trainers = {"reference": make_trainer(tasks, *REFERENCE)}
    trainers |= {method: make_trainer(tasks, f"method={method}") for method in METHODS}
    contestants = {
        name: lambda trainer=trainer: trainer.update(trainer.next_batch())
        for name, trainer in trainers.items()
    }
    times = take_turns(contestants, rounds=rounds, warm_up=1)
    return {method: four_digits(times[method].cpu / times["reference"].cpu) for method in METHODS}


def checkpoint_megabytes() -> float:
    """Size of a checkpoint of the paper's objective."""
    trainer = make_trainer(2, *REFERENCE)
    trainer.update(trainer.next_batch())  # Adam's averages are part of it
    with tempfile.TemporaryDirectory() as folder:
        trainer.checkpoint_path = Path(folder) / "last.pt"
        trainer.save()
        return four_digits(trainer.checkpoint_path.stat().st_size / 1e6)


def update_milliseconds() -> dict[str, float]:
    """CPU time of an update with all terms, of every environment, from ``update.json``."""
    rows = json.loads((RESULTS / "benchmarks" / "update.json").read_text(encoding="utf-8"))["rows"]
    return {
        row["case"]: row["timings"]["update"]["cpu_ms"] + row["timings"]["sampling"]["cpu_ms"]
        for row in rows
        if row["case"] in ENVS and row["phase"] == "joint"
    }


def meta_test_hours(env: str) -> float:
    """Core hours of all meta-tests of one run, at most."""
    file = RESULTS / "benchmarks" / f"simulator-{env}.json"
    if not file.exists():
        return 0.0
    rates = json.loads(file.read_text(encoding="utf-8"))["rates"]
    config, tasks = make_config([f"env={env}", "preset=paper"]), make_task_set(env, "paper")
    test = config.evaluation
    repeats = config.schedule.updates // test.every * test.repeats + test.final_repeats
    # a protocol measures so many episodes, and collects at most as many others
    episodes = 2 * test.episodes * len(test.protocols) * repeats * tasks.n_tasks
    return episodes * tasks.family.horizon / rates["rollout, 1 thread(s)"]["steps_per_cpu_second"] / 3600


def dataset_size(env: str) -> dict[str, Any]:
    """Transitions and gigabytes of recipe ``paper``, from the bytes of a row of ``small`` and full episodes."""
    tasks, recipe = make_task_set(env, "paper"), get_recipe("paper", env)
    snapshots = len(recipe.all_steps)
    transitions = tasks.n_tasks * snapshots * recipe.trajectories_per_snapshot * tasks.family.horizon
    known = json.loads((RESULTS / "datasets" / f"{env}.json").read_text(encoding="utf-8"))
    row = known["megabytes"] * 1e6 / known["counts"]["transitions"]
    return {
        "tasks": tasks.n_tasks, "snapshots": snapshots, "transitions": transitions,
        "row_bytes": four_digits(row), "gigabytes": four_digits(transitions * row / 1e9),
    }  # fmt: skip


def main() -> None:
    """Measure, add up, log, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tasks", type=int, default=4, help="in a batch, for the relative times")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    relative, update = relative_times(arguments.tasks, arguments.rounds), update_milliseconds()
    updates = make_config(["preset=paper"]).schedule.updates
    meta_test = {env: four_digits(meta_test_hours(env)) for env in ENVS}
    hours = {
        env: {method: four_digits(updates * update[env] * relative[method] / 3.6e6) for method in METHODS}
        for env in ENVS
    }
    updating = len(SEEDS) * sum(sum(each.values()) for each in hours.values())
    data = {env: dataset_size(env) for env in ENVS}
    result = {
        "runs": len(ENVS) * len(METHODS) * len(SEEDS),
        "updates": updates,
        "core_hours_of_updates": four_digits(updating),
        "core_hours_of_meta_tests": four_digits(len(SEEDS) * len(METHODS) * sum(meta_test.values())),
        "longest_run_hours": max(max(each.values()) + meta_test[env] for env, each in hours.items()),
        "data_gb": four_digits(sum(each["gigabytes"] for each in data.values())),
        "checkpoint_mb": checkpoint_megabytes(),
        "relative": relative,
        "update_ms": update,
        "update_hours_of_a_run": hours,
        "meta_test_hours_of_a_run": meta_test,
        "datasets": data,
    }
    for name, value in result.items():
        torchrl_logger.info(f"{name}: {value}")
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
