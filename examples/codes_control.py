"""Do the codes matter in protocol ``codes``? The same with contexts of random training tasks in their place.

python examples/codes_control.py results/ablations/codes-control-point_robot.json runs/point_robot-repo/*

Of every finished run: protocol ``codes`` with its codes, and with as many contexts of training tasks drawn at
random (the mean over several draws), on the unseen tasks. Prints both and writes them, seed by seed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ctmrl_torchrl.collectors import CandidatesProtocol
from ctmrl_torchrl.evaluation import bootstrap_interval, load_summary
from ctmrl_torchrl.training.config import register_configs
from ctmrl_torchrl.training.experiment import Experiment, codebook_of, prepare
from ctmrl_torchrl.training.schedule import CodebookSchedule

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def reopen(run: Path, scratch: str) -> Experiment:
    """The experiment of a finished run, as its last checkpoint left it; the run's folder is only read."""
    overrides = shlex.split(load_summary(run / "summary.json")["command"])[2:]
    elsewhere = [f"run_dir={scratch}", f"resume={run}", "output.logger=none", "output.progress=false"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("config", overrides=overrides + elsewhere)
    return prepare(OmegaConf.to_object(config))


def compare(experiment: Experiment, draws: int) -> dict[str, float]:
    """Final returns of protocol ``codes`` with the codes, and with contexts of random training tasks."""
    settings, tester = experiment.config.evaluation, experiment.tester
    codes = codebook_of(experiment.loss).codes.detach()
    (schedule,) = (hook for hook in experiment.trainer.hooks if isinstance(hook, CodebookSchedule))
    generator = torch.Generator().manual_seed(settings.seed)
    collector = tester.collector(experiment.task_set.test_ids, settings.final_repeats)

    def final_return(contexts: torch.Tensor) -> float:
        run = collector.run(CandidatesProtocol(contexts, settings.episodes), seed=settings.seed)
        return run["returns"][:, -1].mean().item()

    def random_contexts() -> torch.Tensor:
        with torch.no_grad():
            contexts = experiment.loss.encode(schedule.collect().to(codes.device), "context")
        return contexts[torch.randperm(len(contexts), generator=generator)[: len(codes)]]

    random = torch.tensor([final_return(random_contexts()) for _ in range(draws)])
    return {"codes": final_return(codes), "random": random.mean().item(), "random_std": random.std().item()}


def main() -> None:
    """Compare, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--draws", type=int, default=5)
    arguments = parser.parse_args()
    register_configs()
    seeds, commands = {}, []
    for run in arguments.runs:
        with tempfile.TemporaryDirectory() as scratch:
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
