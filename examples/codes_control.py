"""Compare protocol ``codes`` with the same protocol on contexts of random training tasks.

python examples/codes_control.py codes-control.json runs/point_robot-repo/ctmrl-brac*

For every finished run, evaluate protocol ``codes`` on the unseen tasks with the codes, and with an equal number
of contexts of random training tasks (mean over several draws). Print both and write them per seed. The runs
must differ in their seeds alone.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
import yaml

from ctmrl_torchrl.collectors import CandidatesProtocol
from ctmrl_torchrl.errors import told_plainly
from ctmrl_torchrl.evaluation import bootstrap_interval, load_summary
from ctmrl_torchrl.methods import CodebookSchedule
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.results import collect_results, read_summaries
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import Experiment, prepare
from ctmrl_torchrl.training.plugins import load_plugin


def reopen(run: Path, scratch: str) -> Experiment:
    """The experiment of a finished run, restored from its last checkpoint; the run folder is only read."""
    words = shlex.split(load_summary(run / "summary.json")["command"])
    plugins = [word for mark, word in pairwise(words) if mark == "--plugin"]
    overrides = [word for word in words if "=" in word and word not in plugins]
    for plugin in plugins:
        load_plugin(plugin)
    data = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))["dataset"]
    elsewhere = [f"run_dir={scratch}", f"resume={run}", f"dataset.root={data['root']}"]
    return prepare(compose_config([*overrides, *elsewhere, "output.logger=none", "output.progress=false"]))


def compare(experiment: Experiment, draws: int) -> dict[str, float]:
    """Final returns of protocol ``codes`` with the codes, and with contexts of random training tasks."""
    settings, tester = experiment.config.evaluation, experiment.tester
    schedule = next((part for part in experiment.parts.parts if isinstance(part, CodebookSchedule)), None)
    if schedule is None:
        raise ConfigError(f"{experiment.config.method} has no codes to compare with other contexts.")
    codes = schedule.candidates()
    generator = torch.Generator().manual_seed(settings.seed)
    collector = tester.collector(experiment.task_set.test_ids, settings.final_repeats)

    def final_return(contexts: torch.Tensor) -> float:
        run = collector.run(CandidatesProtocol(contexts, settings.episodes), seed=settings.seed)
        return run["returns"][:, -1].mean().item()

    def random_contexts() -> torch.Tensor:
        with torch.no_grad():
            contexts = experiment.loss.encode(schedule.collect(), "context")
        return contexts[torch.randperm(len(contexts), generator=generator)[: len(codes)]]

    random = torch.tensor([final_return(random_contexts()) for _ in range(draws)])
    return {"codes": final_return(codes), "random": random.mean().item(), "random_std": random.std().item()}


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.draws < 2:
        parser.error(f"--draws {arguments.draws}: at least 2 are needed for their standard deviation")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with told_plainly():
            collect_results(
                read_summaries(arguments.runs)
            )  # refuses runs that differ in more than their seeds
    except ValueError as error:
        raise SystemExit(str(error)) from None
    seeds, commands = {}, []
    for run in arguments.runs:
        with tempfile.TemporaryDirectory() as scratch, told_plainly():
            experiment = reopen(run, scratch)
            seeds[experiment.config.seed] = compare(experiment, arguments.draws)
        commands.append(load_summary(run / "summary.json")["command"])
    result = {"draws": arguments.draws, "seeds": seeds, "commands": commands}
    for name in ("codes", "random"):
        values = [entry[name] for entry in seeds.values()]
        low, high = bootstrap_interval(values)
        result[name] = {"mean": sum(values) / len(values), "ci95": [low, high]}
        print(f"{name:7} {result[name]['mean']:8.3f}  [{low:.3f}, {high:.3f}]  {len(values)} seeds")
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
