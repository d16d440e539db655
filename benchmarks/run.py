"""All benchmarks one after the other, a file each in ``results/benchmarks``, and one table of what they say.

python benchmarks/run.py                       # about an hour of a quiet machine
python benchmarks/run.py --only update sampling
python benchmarks/run.py --only                # no measurement: the table of what is there
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torchrl._utils import logger as torchrl_logger

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"

#: Point-Robot's ``quick`` with 6,500 instead of 4,500 updates
_LONGER = "compile=onednn schedule.updates=6500"
#: name of the result: script and its arguments
BENCHMARKS: dict[str, str] = {
    "update": "update.py --rounds 5",
    "update-quick": "update.py --cases quick --rounds 21 --no-memory",
    "update-two-threads": "update.py --cases quick 'released code' --threads 2",
    "update-compiled": "update.py --cases quick --compile",
    "methods": "methods.py --rounds 7",
    "policy_samples": "samples.py",
    "sampling": "sampling.py",
    "larger_than_memory": "larger_than_memory.py",
    "meta_test": "meta_test.py",
    "meta_test-half_cheetah_vel": "meta_test.py --env half_cheetah_vel --repeats 1 --rounds 1",
    "simulator-half_cheetah_vel": "simulator.py",
    **{
        f"simulator-{family}": f"simulator.py --family {family} --no-others"
        for family in ("hopper_rand_params", "walker_rand_params", "ant_goal")
    },
    "scaling": "scaling.py",
    "time_to_return": f"time_to_return.py {_LONGER} --every 500 --seeds 0 1 2",
    "time_to_return-np_refine": (
        f"time_to_return.py {_LONGER} --protocol np_refine --target -4.3 --every 500 --seeds 0 1 2"
    ),
    "gpu": "gpu.py --sizes released --rounds 3 --calls 8",
}

Row = tuple[str, str]


def update_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Time, times the floor, fixed cost, sampling and memory of every case."""
    for row in result["rows"]:
        time, compiled = row["timings"]["update"], row["timings"].get("compiled update")
        memory = f", {row['peak_memory_mb'] / 1e3:.1f} GB" if row["peak_memory_mb"] else ""
        yield (
            f"{row['case']}, {row['phase']}, {row['threads']} thread(s)",
            f"{time['cpu_ms']:,.0f} ms of CPU, {time['wall_ms']:,.0f} ms, "
            f"{row['update_over_floor']:.2f} x floor, fixed {row['fixed_cost_share']:.1%}, "
            f"sampling {row['sampling_share']:.1%}{memory}"
            + (f", compiled {compiled['wall_ms']:,.1f} ms" if compiled else ""),
        )


def methods_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Time and times the floor of every method, and of the parts against their literal form."""
    for row in result["rows"]:
        times = ", ".join(
            f"compile={way} {row['timings'][way]['cpu_ms']:,.0f} ms of CPU, {ratio:.2f} x floor"
            for way, ratio in row["over_floor"].items()
        )
        yield f"{row['method']}, sizes {row['sizes']}", times
    for row in result["literal"]:
        ours, literal = (row["timings"][name]["cpu_ms"] for name in ("ours", "literal"))
        yield (
            f"{row['method']}, {row['part']}, sizes {row['sizes']}",
            f"{ours:,.1f} ms of CPU, literal {literal:,.1f} ms, ratio {row['ours_over_literal']:.3f}",
        )


def samples_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Transitions that a policy loss learns from."""
    for row in result["rows"]:
        yield (
            f"{result['env']}, {row['policy_loss']}, compile={row['compile']}",
            f"{row['cpu_ms']:.1f} ms of CPU, "
            f"{row['transitions_per_cpu_second']:,.0f} transitions per second of CPU",
        )


def sampling_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Time of every way to draw."""
    for name, entry in result["timings"].items():
        yield (
            name,
            f"{entry['cpu_ms']:.2f} ms of CPU, {entry['times_buffer_in_memory']:.2f} x the buffer in memory",
        )


def meta_test_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Time of every protocol."""
    for name, entry in result["protocols"].items():
        yield (
            f"{result['env']}, {name}",
            f"{entry['seconds']:.1f} s, {entry['env_steps_per_second']:,.0f} environment steps per second",
        )


def simulator_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Speed of every contestant."""
    for name, entry in result["rates"].items():
        yield (
            f"{result['family']}, {name}",
            f"{entry['steps_per_cpu_second']:,.0f} steps per second of CPU, {entry['steps_per_second']:,.0f} "
            f"per second, {entry['times_bare_loop']:.2f} x bare loop, {entry['times_gym_env']:.1f} x GymEnv",
        )


def scaling_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Every point of every axis."""
    for axis in result["axes"].values():
        for point in axis["points"]:
            memory = point["peak_memory_mb"] / 1e3
            yield f"{axis['name']}: {point['size']:,}", f"{point['cpu_ms']:,.1f} ms of CPU, {memory:.1f} GB"


def larger_rows(result: dict[str, Any]) -> Iterator[Row]:
    """What a dataset costs that does not fit into memory."""
    what = f"{result['gigabytes']:.0f} GB, memory {result['memory_gb']:.0f} GB"
    yield f"{what}: to open", f"{result['open_s']:.0f} s"
    yield f"{what}: statistics", f"{result['statistics_s']:.0f} s"
    sample = result["sample"]
    yield f"{what}: a batch", f"{sample['cpu_ms']:.1f} ms of CPU, {sample['wall_ms']:.1f} ms"


def time_to_return_rows(result: dict[str, Any]) -> Iterator[Row]:
    """CPU seconds of every seed."""
    for row in result["rows"]:
        reached = "reached" if row["reached"] else "not reached"
        yield (
            f"{result['protocol']} >= {result['target']}, seed {row['seed']}",
            f"{reached} after {row['updates']:,} updates, {row['cpu_s']:.0f} s of CPU",
        )


def gpu_rows(result: dict[str, Any]) -> Iterator[Row]:
    """Time of every method by way."""
    for row in result["updates"]:
        times = ", ".join(f"compile={way} {value:.1f} ms" for way, value in row["update_ms"].items())
        yield f"{result['machine']['gpu']}, {row['method']}, sizes {row['sizes']}", times


ROWS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "update": update_rows,
    "methods": methods_rows,
    "policy_samples": samples_rows,
    "sampling": sampling_rows,
    "larger_than_memory": larger_rows,
    "meta_test": meta_test_rows,
    "simulator": simulator_rows,
    "scaling": scaling_rows,
    "time_to_return": time_to_return_rows,
    "gpu": gpu_rows,
}


def table(folder: Path) -> str:
    """What the results in a folder say, as one Markdown table."""
    lines = ["| benchmark | what | result |", "| --- | --- | --- |"]
    for name in BENCHMARKS:
        file = folder / f"{name}.json"
        if file.exists():
            result = json.loads(file.read_text(encoding="utf-8"))
            lines += [f"| {name} | {what} | {says} |" for what, says in ROWS[name.split("-")[0]](result)]
    return "\n".join(lines)


def main() -> None:
    """Run, log the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", choices=list(BENCHMARKS), default=list(BENCHMARKS))
    parser.add_argument("--folder", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    for name in arguments.only:
        if name == "gpu" and not torch.cuda.is_available():
            torchrl_logger.info("gpu: left out, because this machine has no GPU")
            continue
        script, *options = shlex.split(BENCHMARKS[name])
        command = [sys.executable, str(Path(__file__).with_name(script)), *options]
        # Relative, for the result holds its command, and that is no place for a machine's paths.
        output = os.path.relpath(arguments.folder / f"{name}.json")
        subprocess.run([*command, "--output", output], check=True)
    torchrl_logger.info("\n" + table(arguments.folder))


if __name__ == "__main__":
    main()
