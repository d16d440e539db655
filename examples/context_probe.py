"""What do contexts know of their task? Task parameters regressed from the contexts of a trained agent.

    python examples/context_probe.py runs/point_robot-repo/ctmrl-brac_sac-quick-seed0 --protocol np online

Adapts the agent of a finished run to every task of its family, regresses the task parameters from the final
contexts of the training tasks, and prints R² on unseen tasks: 1 if contexts determine a parameter linearly, 0 if
they say nothing about it. The mean over parameters counts negative values as 0. A poor return with a high R² is
the fault of the policy, a low R² that of the encoder or the protocol.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ctmrl_torchrl.agents import Agent, AgentError
from ctmrl_torchrl.data import TaskDataset, draw_episode
from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.evaluation import probe_parameters


def probe(
    run: Path, protocols: list[str], repeats: int, seed: int, data: Path | None = None
) -> dict[str, Any]:
    """R² of every parameter under every protocol, and the mean return of the last episode."""
    agent = Agent.load(run)
    if not (run / "summary.json").is_file():
        raise AgentError("it has no summary.json; give the folder of a finished run.")
    summary = json.loads((run / "summary.json").read_text())
    task_set = make_task_set(agent.card.env, summary["dataset"]["tasks"])
    tasks = torch.arange(len(task_set.parameters)).repeat_interleave(repeats)
    draw = None if data is None else partial(draw_episode, TaskDataset.load(data))
    table: dict[str, Any] = {key: summary[key] for key in ("env", "method", "policy_loss", "preset", "seed")}
    for protocol in protocols:
        env = make_env(agent.card.env, tasks, task_set=task_set, seed=seed)
        adaptation = agent.adapt(env, protocol, offline_draw=draw, seed=seed)
        env.close()
        contexts = adaptation.task_context.reshape(-1, repeats, agent.context_dim)
        known = probe_parameters(contexts, task_set.parameters, task_set.train_ids, task_set.test_ids)
        best = int(known.nan_to_num(-1.0).argmax())
        table[protocol] = {
            "mean": round(known.clamp(min=0).nanmean().item(), 3),
            "best": [task_set.parameter_names[best], round(known[best].item(), 3)],
        }
    return table


def main() -> None:
    """Probe the agents, print a line for each protocol."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--protocol", nargs="+", default=["np"], help="protocols of the adaptation")
    parser.add_argument("--repeats", type=int, default=4, help="contexts of each task")
    parser.add_argument("--data", type=Path, help="dataset folder, for the protocol offline")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    tables = []
    for run in options.runs:
        try:
            tables.append(probe(run, options.protocol, options.repeats, options.seed, options.data))
        except (AgentError, ValueError) as error:
            raise SystemExit(f"{run}: {error}") from error
        for protocol in options.protocol:
            found, (name, value) = tables[-1][protocol]["mean"], tables[-1][protocol]["best"]
            label = f"{tables[-1]['env']} {tables[-1]['method']} seed {tables[-1]['seed']}"
            print(f"{label:45} {protocol:10} R2 {found:5.2f}, best {name} {value:5.2f}", flush=True)
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
