"""Timing by turns: contestants meet the same noise of a shared machine, and medians are compared."""

from __future__ import annotations

import json
import multiprocessing
import platform
import resource
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call: of CPU over all threads of the process, and of the clock."""

    cpu: float
    wall: float

    def to_dict(self) -> dict[str, float]:
        """In milliseconds, rounded to four digits."""
        return {"cpu_ms": four_digits(1e3 * self.cpu), "wall_ms": four_digits(1e3 * self.wall)}


def four_digits(value: float) -> float:
    """Rounded to four significant digits."""
    return float(f"{value:.4g}")


def timed(run: Callable[[], object], calls: int = 1) -> Timing:
    """Seconds per call, the device's work included."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(calls):
        run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Timing((time.process_time() - cpu) / calls, (time.perf_counter() - wall) / calls)


def take_turns(
    contestants: Mapping[str, Callable[[], object]], *, rounds: int, calls: int = 1, warm_up: int = 2
) -> dict[str, Timing]:
    """Medians over rounds in which every contestant has one turn of ``calls`` calls."""
    for run in contestants.values():
        for _ in range(warm_up):
            run()
    turns: dict[str, list[Timing]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            turns[name].append(timed(run, calls))
    return {
        name: Timing(statistics.median(t.cpu for t in taken), statistics.median(t.wall for t in taken))
        for name, taken in turns.items()
    }


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What ``function(*arguments)`` returns in a process of its own, and that process's peak memory in MB.

    The process's own floor (interpreter, imported libraries) is part of it.

    Raises:
        RuntimeError: if the process dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError("the process that was to be measured died; see its output") from None
    finally:
        process.join()


def _answer(sender: Any, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    answer = function(*arguments)
    sender.send((answer, round(_peak_bytes() / 1e6, 1)))


def _peak_bytes() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        # Of this program alone; Linux's ru_maxrss begins with what the parent held when it forked.
        lines = status.read_text(encoding="utf-8").splitlines()
        return 1024 * next(float(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def repeat(make: Callable[..., Callable[[], object]], *arguments: Any, calls: int = 3) -> None:
    """Make something to call, and call it a few times."""
    run = make(*arguments)
    for _ in range(calls):
        run()


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    name = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), name)
    return {
        "cpu": name,
        "cores": multiprocessing.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "torchrl": version("torchrl"),
        "tensordict": version("tensordict"),
        "python": platform.python_version(),
    }


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result, with the command that made it."""
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"command": command, "machine": machine(), **result}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
