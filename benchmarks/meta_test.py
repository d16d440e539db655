"""Wall time of a meta-test: every protocol on the unseen tasks, all tasks and repeats as one batch.

python benchmarks/meta_test.py            # Point-Robot, the final meta-test of preset quick
python benchmarks/meta_test.py --env half_cheetah_vel --repeats 1 --output results/benchmarks/meta_test.json
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from cases import RELEASED_SIZES, make_case
from ctmrl_torchrl.training.meta_test import MetaTester, make_protocols
from measure import four_digits, write_json
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.objectives.policy import ActingPolicy


def measure_meta_test(env: str, repeats: int | None, rounds: int) -> dict[str, Any]:
    """Seconds and environment steps per second of each protocol, untrained networks of preset ``quick``."""
    case = make_case([f"env={env}", "preset=quick"], transitions_per_task=2_800)
    settings, codes = case.config.evaluation, case.loss.representation.codebook.codes.detach()
    repeats = repeats or settings.final_repeats
    tester = MetaTester(
        case.task_set,
        case.dataset,
        ActingPolicy(case.loss.policy),
        case.loss.context_encoder,
        context_dim=case.config.encoder.context_dim,
        codes=codes,
        config=settings,
        device=codes.device,
    )
    tasks, result = case.task_set.test_ids, {}
    collector = tester.collector(tasks, repeats)
    for protocol in make_protocols(settings, codes):
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            run = collector.run(protocol, seed=0)
            taken.append(time.perf_counter() - start)
        # E measured episodes, and a collected one between each two of them.
        episodes = 2 * run["returns"].shape[-1] - 1
        steps = len(tasks) * repeats * episodes * case.task_set.family.horizon
        best = min(taken)
        result[protocol.name] = {
            "seconds": four_digits(best),
            "env_steps": steps,
            "env_steps_per_second": four_digits(steps / best),
        }
    return {"env": env, "tasks": len(tasks), "repeats": repeats, "protocols": result}


def main() -> None:
    """Measure, log a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="point_robot", choices=sorted(RELEASED_SIZES))
    parser.add_argument("--repeats", type=int, help="of every task; default: those of the final meta-test")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result = measure_meta_test(arguments.env, arguments.repeats, arguments.rounds)
    for name, entry in result["protocols"].items():
        torchrl_logger.info(
            f"{name:10s} {entry['seconds']:7.2f} s  {entry['env_steps_per_second']:9,.0f} env steps/s"
        )
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
