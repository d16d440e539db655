"""Transitions that a policy learns from per CPU second, by policy loss and way of running an update.

python benchmarks/samples.py                                    # hopper, preset cpu, the policy's phase
python benchmarks/samples.py --env walker_rand_params --phase joint
python benchmarks/samples.py --ways false                       # also runs in checkouts without recordings

A turn samples a batch and updates with it; the ways of a loss take turns. To compare with another commit, copy
this file into a checkout of it and run the two alternately.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from cases import make_case
from measure import four_digits, take_turns, write_json
from torchrl._utils import logger as torchrl_logger


def measure_samples(
    env: str, preset: str, phase: str, losses: list[str], ways: list[str], rounds: int
) -> list[dict[str, Any]]:
    """Milliseconds of CPU of one update with its batch, and transitions per CPU second."""
    rows = []
    for loss in losses:
        overrides = [f"env={env}", f"preset={preset}", f"policy_loss={loss}"]
        cases = {way: make_case([*overrides, f"compile={way}"], phase=phase) for way in ways}
        contestants = {
            way: lambda trainer=case.trainer: trainer.update(trainer.next_batch())
            for way, case in cases.items()
        }
        timings = take_turns(contestants, rounds=rounds, calls=5)
        batch = next(iter(cases.values())).config.batch
        for way, timing in timings.items():
            row = {"policy_loss": loss, "compile": way, "phase": phase, **timing.to_dict()}
            rate = four_digits(batch.tasks * batch.transitions / timing.cpu)
            rows.append(row | {"transitions_per_cpu_second": rate})
    return rows


def main() -> None:
    """Measure, log a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="hopper_rand_params")
    parser.add_argument("--preset", default="cpu")
    parser.add_argument("--phase", default="policy", choices=["policy", "joint"])
    parser.add_argument("--losses", nargs="+", default=["bc", "iql", "brac_sac"])
    parser.add_argument("--ways", nargs="+", default=["false", "recorded", "onednn"])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    rows = measure_samples(**settings)
    for row in rows:
        torchrl_logger.info(
            f"{row['policy_loss']:10s} compile={row['compile']:9s} {row['phase']:7s} {row['cpu_ms']:7.1f} ms CPU "
            f"{row['transitions_per_cpu_second']:9,.0f} transitions / CPU s"
        )
    if arguments.output is not None:
        write_json(arguments.output, settings | {"rows": rows})


if __name__ == "__main__":
    main()
