"""Whether a study gives the same table undisturbed, killed and resumed, and on Ray with a killed worker.

python benchmarks/study_runners.py --output results/studies/study_runners.json     # needs Ray; minutes

Three studies of 12 runs (two environments, three methods, two seeds; preset ``smoke``), each with its own folder;
the data are common. ``local`` runs undisturbed. ``killed`` is the same command, whose whole process group is
killed with SIGKILL at random moments and started again until it is done. ``ray`` runs on a local cluster of two
processors, and a worker is killed with SIGKILL in the middle of a run. Every number of every table is compared as
text, and the returns of every run's summary as floating-point numbers. A way that is done in the given folder is
not run again, so that the ways can be run one after another: ``--folder DIR --ways local``, then ``--ways ray``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from measure import four_digits, write_json
from torchrl._utils import logger as torchrl_logger

STUDY = """description: Twelve small runs that show that runners agree; too small to conclude anything.
factors:
  env: [point_robot, sparse_point_robot]
  method: [ctmrl, focal, unicorn]
  seed: [0, 1]
fixed:
  - preset=smoke
  - schedule.updates={updates}
  - batch.tasks=4
  - batch.transitions=16
  - sizes.policy_hidden=[32,32]
  - sizes.encoder_hidden=[32,32]
  - sizes.predictor_hidden=[32,32]
  - evaluation.every=0
  - evaluation.episodes=4
  - evaluation.random_episodes=2
  - evaluation.protocols=[offline,np]
  - output.checkpoint_every=3
  - output.figures=false
  - dataset.root={data}
compare: method
protocols: [offline, np]
report:
  splits: [test, train]
"""
NAME, RUNS = "twelve", 12
WAYS = ("local", "killed", "ray")


class Folder:
    """The folder of one way to run the study."""

    def __init__(self, root: Path, updates: int, changes: tuple[str, ...]) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root, self.changes = root, changes
        self.file = root / f"{NAME}.yaml"
        self.file.write_text(STUDY.format(data=root.parent / "datasets", updates=updates), encoding="utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        """Start the study's command in a process group of its own."""
        run = [f"root={self.root}/studies", "progress=false", *self.changes]
        command = [sys.executable, "-m", "ctmrl_torchrl.cli", "study", "run", str(self.file), *run]
        quiet = os.environ | {"RAY_AUTH_MODE": "disabled"}
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=quiet
            )

    def records(self) -> list[dict[str, Any]]:
        """The records of all runs that were begun."""
        files = sorted((self.root / "studies" / "store" / "records").glob("*.json"))
        return [{"key": file.stem} | json.loads(file.read_text(encoding="utf-8")) for file in files]

    def run_folder(self, key: str) -> Path:
        """The folder of a run."""
        return self.root / "studies" / "store" / "runs" / key

    def tables(self) -> dict[str, str]:
        """The text of every table of the report."""
        return {
            file.name: file.read_text(encoding="utf-8")
            for file in sorted((self.root / "studies" / NAME).glob("*.csv"))
        }

    def returns(self) -> dict[str, Any]:
        """The returns of every run, by its label."""
        return {
            each["label"]: json.loads((self.run_folder(each["key"]) / "summary.json").read_text())["returns"]
            for each in self.records()
        }

    def done(self) -> int:
        """Number of finished runs."""
        return len(list((self.root / "studies" / "store" / "runs").glob("*/summary.json")))

    def attempts(self) -> dict[str, int]:
        """Number of attempts, of those that were lost, and of those that resumed from a checkpoint."""
        attempts = [attempt for record in self.records() for attempt in record["attempts"]]
        lost = sum(attempt["state"] == "lost" for attempt in attempts)
        return {
            "attempts": len(attempts),
            "lost": lost,
            "resumed": sum(attempt["resumed"] for attempt in attempts),
        }


def undisturbed(folder: Folder) -> dict[str, Any]:
    """Run the study once; the seconds until its first run began, and those of all runs."""
    begin = time.time()
    _finish(folder, folder.start())
    first = min(record["attempts"][0]["started"] for record in folder.records())
    return {
        "kills": 0,
        "preparation_s": four_digits(first - begin),
        "runs_s": four_digits(time.time() - first),
    }


def killed(folder: Folder, kills: int, plain: dict[str, Any], moments: random.Random) -> dict[str, Any]:
    """Kill the study's process group at random moments, and start it again each time until it is done.

    The first moment is in the preparation. The others come when random numbers of runs have finished and further
    ones have begun, after a random part of the time that a run takes.
    """
    after, finished = [], sorted(moments.sample(range(1, RUNS - 1), kills - 1))
    for kill in range(kills):
        process, begun = folder.start(), folder.attempts()["attempts"]
        if kill == 0:
            delay = plain["preparation_s"] * moments.random()
        else:
            delay = plain["runs_s"] / RUNS * moments.random()
            while process.poll() is None and (
                folder.done() < finished[kill - 1] or folder.attempts()["attempts"] == begun
            ):
                time.sleep(0.05)
        try:
            process.wait(delay)
            break  # it was done before
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        after.append({"seconds": four_digits(delay), **folder.attempts(), "done": folder.done()})
        torchrl_logger.info(f"killed: {after[-1]}")
    _finish(folder, folder.start())
    ends = [[attempt["state"] for attempt in record["attempts"]] for record in folder.records()]
    repeated = sum("done" in states[:-1] for states in ends)
    return {"kills": len(after), "killed_after": after, "finished_runs_repeated": repeated}


def worker_killed(folder: Folder) -> dict[str, Any]:
    """Kill the process of a run that has written a checkpoint; its record names it."""
    process, victim = folder.start(), None
    while victim is None and process.poll() is None:
        victim = _in_the_middle(folder)
        if victim is not None:
            command = Path(f"/proc/{victim}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            os.kill(victim, signal.SIGKILL)
            torchrl_logger.info(f"killed the worker {command!r}")
        time.sleep(0.01)
    _finish(folder, process)
    return {"kills": int(victim is not None)}


def _in_the_middle(folder: Folder) -> int | None:
    for record in folder.records():
        attempt, run = record["attempts"][-1], folder.run_folder(record["key"])
        has_checkpoint = (run / "checkpoints" / "last.pt").exists()
        if attempt["state"] == "started" and has_checkpoint and not (run / "summary.json").exists():
            return attempt["pid"]
    return None


def _finish(folder: Folder, process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise RuntimeError(f"The study failed; its messages are in {folder.root / 'log'}.")


def once(folder: Folder, disturb: Callable[[Folder], dict[str, Any]]) -> dict[str, Any]:
    """What one way gave; it is run if it has not been run to its end in this folder."""
    note = folder.root / "result.json"
    if not note.exists():
        start = time.perf_counter()
        found = disturb(folder)
        seconds = four_digits(time.perf_counter() - start)
        date = datetime.now(UTC).date().isoformat()
        note.write_text(json.dumps({"date": date, **found, **folder.attempts(), "seconds": seconds}))
    result = json.loads(note.read_text(encoding="utf-8"))
    torchrl_logger.info(f"{folder.root.name}: {result}")
    return result


def main() -> None:
    """Run the three studies, compare them, log, write JSON; fails if they differ."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, help="of the studies; by default a new temporary one")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--updates", type=int, default=30)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which the study is killed")
    parser.add_argument("--workers", type=int, default=2, help="of the local runner")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    root = (arguments.folder or Path(tempfile.mkdtemp())).absolute()
    runners = {name: ("ray", 2) if name == "ray" else ("local", arguments.workers) for name in WAYS}
    ways = {
        name: Folder(root / name, arguments.updates, (f"runner={runner}", f"runner.workers={workers}"))
        for name, (runner, workers) in runners.items()
    }
    moments = random.Random(arguments.seed)
    local = once(ways["local"], undisturbed)
    disturb: dict[str, Callable[[Folder], dict[str, Any]]] = {
        "killed": lambda folder: killed(folder, arguments.kills, local, moments),
        "ray": worker_killed,
    }
    found = {name: once(ways[name], disturb[name]) for name in arguments.ways if name != "local"}
    tables, returns = ways["local"].tables(), ways["local"].returns()
    if not tables or len(returns) != RUNS:
        raise RuntimeError(f"{len(returns)} runs and {len(tables)} tables were found in {root}.")
    for name, each in found.items():
        each["equal_tables"] = ways[name].tables() == tables
        each["equal_returns"] = ways[name].returns() == returns
        torchrl_logger.info(f"{name}: {each}")
    if arguments.output is not None:
        about = {"runs": RUNS, "updates": arguments.updates, "workers": arguments.workers}
        write_json(arguments.output, {**about, "tables": list(tables), "local": local, **found})
    if not all(each["equal_tables"] and each["equal_returns"] for each in found.values()):
        raise SystemExit(f"The studies differ; they are in {root}.")


if __name__ == "__main__":
    main()
