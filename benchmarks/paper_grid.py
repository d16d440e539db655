"""What the full grid of preset ``paper`` needs: core hours, sizes of datasets and of checkpoints.

python benchmarks/paper_grid.py --output results/benchmarks/paper_grid.json      # minutes

The grid is that of ``configs/study/table1.yaml`` with ``comparison=shared`` and ``preset=paper``: nine methods,
seven environments, six seeds. An update of every method is timed on one point robot and one MuJoCo robot in the
phases of the schedules (CPU time, one thread, random data); the other environments of a kind are taken to be
equal. An update with all terms stands for the cheaper ones of the warm-up. A checkpoint is written once for
every method.
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
from ctmrl_torchrl.training.config import ScheduleConfig

RESULTS = Path(__file__).parents[1] / "results"
GRID = load_study("table1")
ENVS, METHODS, SEEDS = (GRID.factors[name] for name in ("env", "method", "seed"))
#: the environment whose updates stand for the others of its kind
MEASURED = {env: "point_robot" if "point_robot" in env else "half_cheetah_vel" for env in ENVS}


def phases(schedule: ScheduleConfig) -> dict[str, float]:
    """Share of the updates of each phase."""
    end, start = schedule.representation_end, schedule.policy_start
    shares = {"representation": start, "joint": max(end - start, 0.0), "policy": 1.0 - max(end, start)}
    return {phase: share for phase, share in shares.items() if share > 1e-9}


def schedule_of(env: str, method: str) -> ScheduleConfig:
    """The schedule of a run of the grid."""
    return make_config([f"env={env}", f"method={method}", "preset=paper"]).schedule


def measure_method(env: str, method: str, rounds: int) -> dict[str, Any]:
    """Milliseconds of an update in every phase of the schedules, and megabytes of a checkpoint."""
    alike = [other for other, stands in MEASURED.items() if stands == env]
    wanted = dict.fromkeys(phase for other in alike for phase in phases(schedule_of(other, method)))
    overrides = [f"env={env}", f"method={method}", "preset=paper", "compile=false"]
    case = make_case(overrides, transitions_per_task=2_800)
    trainer, batch, taken = case.trainer, case.trainer.next_batch(), {}
    for phase in wanted:
        case.loss.representation_frozen = phase == "policy"
        case.loss.policy_frozen = phase == "representation"
        update = take_turns({phase: lambda: trainer.update(batch)}, rounds=rounds, warm_up=1)[phase]
        sample = take_turns({"sample": trainer.next_batch}, rounds=rounds, warm_up=0)["sample"]
        taken[phase] = four_digits(1e3 * (update.cpu + sample.cpu))
    with tempfile.TemporaryDirectory() as folder:
        trainer.checkpoint_path = Path(folder) / "last.pt"
        trainer.save()
        size = trainer.checkpoint_path.stat().st_size
    return {"ms": taken, "checkpoint_mb": four_digits(size / 1e6)}


def dataset_size(env: str) -> dict[str, Any]:
    """Transitions and gigabytes of the data of recipe ``paper``, from the bytes of a row and full episodes."""
    tasks = make_task_set(env, "paper")
    recipe = get_recipe("paper", env)
    snapshots = len(recipe.all_steps)
    transitions = tasks.n_tasks * snapshots * recipe.trajectories_per_snapshot * tasks.family.horizon
    known = json.loads((RESULTS / "datasets" / f"{env}.json").read_text(encoding="utf-8"))
    row = known["megabytes"] * 1e6 / known["counts"]["transitions"]
    return {
        "tasks": tasks.n_tasks, "snapshots": snapshots, "transitions": transitions,
        "row_bytes": four_digits(row), "gigabytes": four_digits(transitions * row / 1e9),
    }  # fmt: skip


def core_hours(env: str, method: str, measured: dict[str, Any]) -> float:
    """Core hours of the updates of one run."""
    schedule, ms = schedule_of(env, method), measured[MEASURED[env]][method]["ms"]
    each = sum(share * ms[phase] for phase, share in phases(schedule).items())
    return schedule.updates * each / 3.6e6


def main() -> None:
    """Measure, add up, log, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    measured: dict[str, dict[str, Any]] = {}
    for env in dict.fromkeys(MEASURED.values()):
        measured[env] = {}
        for method in METHODS:
            measured[env][method] = measure_method(env, method, arguments.rounds)
            torchrl_logger.info(f"{env} {method}: {measured[env][method]}")
    hours = {env: {method: core_hours(env, method, measured) for method in METHODS} for env in ENVS}
    runs = len(ENVS) * len(METHODS) * len(SEEDS)
    total = len(SEEDS) * sum(sum(each.values()) for each in hours.values())
    longest = max(max(each.values()) for each in hours.values())
    data = {env: dataset_size(env) for env in ENVS}
    result = {
        "runs": runs,
        "core_hours": four_digits(total),
        "longest_run_hours": four_digits(longest),
        "data_gb": four_digits(sum(each["gigabytes"] for each in data.values())),
        "hours_of_a_run": {
            env: {method: four_digits(value) for method, value in each.items()}
            for env, each in hours.items()
        },
        "datasets": data,
        "measured": measured,
    }  # fmt: skip
    for name in ("runs", "core_hours", "longest_run_hours", "data_gb", "hours_of_a_run"):
        torchrl_logger.info(f"{name}: {result[name]}")
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
