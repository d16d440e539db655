"""CPU seconds from an empty folder to a return on unseen tasks: data, training and nothing else.

python benchmarks/time_to_return.py                                       # Point-Robot, np >= -4.81, seed 0
python benchmarks/time_to_return.py --protocol np_refine --target -4.3 --seeds 0 1 2
python benchmarks/time_to_return.py --target 349 --every 500 env=hopper_rand_params preset=cpu
python benchmarks/time_to_return.py compile=onednn --output results/benchmarks/time_to_return.json

Every seed starts in a process of its own and in an empty folder. Training stops at the first meta-test on the
test tasks that reaches the target. The meta-tests are counted apart, because their number is a choice of this
benchmark. CPU seconds are those of all processes and include the imports. The schedule is that of a complete run
and does not know of the target.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from measure import four_digits, in_fresh_process, write_json
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import prepare


class _ReachedError(Exception):
    """The target is reached."""


def cpu_seconds() -> float:
    """Of this process and of its finished children."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def time_to_return(overrides: list[str], protocol: str, target: float, seed: int) -> dict[str, Any]:
    """Train until a meta-test reaches the target.

    Returns:
        CPU seconds for data, for training and for meta-tests, the return at every meta-test, and whether the
        target was reached.
    """
    with tempfile.TemporaryDirectory() as folder:
        fixed = [f"dataset.root={folder}/data", f"run_dir={folder}/run", f"seed={seed}"]
        fixed += [f"evaluation.protocols=[{protocol}]", "output.progress=false", "output.logger=none"]
        experiment = prepare(compose_config([*overrides, *fixed]))
        trainer, tester = experiment.trainer, experiment.tester
        prepared, tested, returns = cpu_seconds(), 0.0, {}

        def evaluate(update: int) -> dict[str, float]:
            nonlocal tested
            start = cpu_seconds()
            run = tester.run(experiment.task_set.test_ids, experiment.config.evaluation.repeats, seed=0)
            returns[update] = run[protocol]["returns"][..., -1].mean().item()
            tested += cpu_seconds() - start
            if returns[update] >= target:
                raise _ReachedError
            return {}

        trainer.evaluate = evaluate
        reached = False
        try:
            trainer.train()
        except _ReachedError:
            reached = True
        finally:
            tester.close()
            if experiment.folder is not None:
                experiment.folder.release()
    return {
        "seed": seed,
        "reached": reached,
        "updates": trainer.update_count,
        "cpu_s": four_digits(cpu_seconds() - tested),
        "until_training_cpu_s": four_digits(prepared),
        "meta_tests_cpu_s": four_digits(tested),
        "returns": {str(update): four_digits(value) for update, value in returns.items()},
    }


def main() -> None:
    """Measure every seed, log and write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("overrides", nargs="*", metavar="NAME=VALUE", help="of the configuration")
    parser.add_argument("--protocol", default="np")
    parser.add_argument("--target", type=float, default=-4.81)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--every", type=int, default=250, help="updates between meta-tests")
    parser.add_argument("--repeats", type=int, default=8, help="of every test task")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tests = [f"evaluation.every={arguments.every}", f"evaluation.repeats={arguments.repeats}"]
    overrides = [*arguments.overrides, *tests]
    rows = []
    for seed in arguments.seeds:
        row, _ = in_fresh_process(time_to_return, overrides, arguments.protocol, arguments.target, seed)
        rows.append(row)
        torchrl_logger.info(
            f"seed {seed}: {'reached' if row['reached'] else 'not reached'} after {row['updates']} updates, "
            f"{row['cpu_s']:.1f} CPU s, {row['until_training_cpu_s']:.1f} of them before training"
        )
    result = {
        "overrides": overrides,
        "protocol": arguments.protocol,
        "target": arguments.target,
        "median_cpu_s": four_digits(statistics.median(row["cpu_s"] for row in rows)),
        "all_reached": all(row["reached"] for row in rows),
        "rows": rows,
    }
    torchrl_logger.info(f"median {result['median_cpu_s']} CPU s")
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
