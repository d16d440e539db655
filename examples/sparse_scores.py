"""What would agents of Point-Robot score as Sparse-Point-Robot? That is, with dense rewards in their contexts.

    python examples/sparse_scores.py point_robot
    python examples/sparse_scores.py runs/point_robot-repo/ctmrl-brac_sac-quick-seed* --protocol np np_refine

Both environments have the same tasks and dynamics, and policies of both learn from dense rewards. They differ in
the rewards that contexts contain and that returns count. This program adapts agents of Point-Robot and counts the
sparse rewards of their last episode, so only the rewards in the contexts differ from Sparse-Point-Robot. Agents
are folders of finished runs, or names of released agents; several count as seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from ctmrl_torchrl.agents import Agent, AgentError
from ctmrl_torchrl.envs import make_env, make_task_set, sparse_reward
from ctmrl_torchrl.envs.point_robot import dense_reward
from ctmrl_torchrl.evaluation import bootstrap_interval

REPEATS = 8


def scores(agent: Agent, protocol: str, split: str, seed: int) -> dict[str, float]:
    """Mean ``dense`` and ``sparse`` return of the last episode on the unseen (``test``) or training tasks."""
    tasks = make_task_set(agent.card.env, agent.card.tasks)
    ids = torch.tensor(tasks.test_ids if split == "test" else tasks.train_ids).repeat_interleave(REPEATS)
    env = make_env(agent.card.env, ids, task_set=tasks, seed=seed)
    path = agent.adapt(env, protocol, seed=seed).run["last_path"][:, 1:]
    env.close()
    dense = dense_reward(path, tasks.parameters[ids, None].to(path.dtype))
    return {"dense": dense.sum(1).mean().item(), "sparse": sparse_reward(dense).sum(1).mean().item()}


def main() -> None:
    """Score the agents and print a line for each protocol and split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("agents", nargs="+", help="folders of finished runs, or names of released agents")
    parser.add_argument("--protocol", nargs="+", default=["np"], help="protocols of the adaptation")
    parser.add_argument("--seed", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    try:
        agents = [Agent.load(name) for name in options.agents]
        others = {agent.card.env for agent in agents} - {"point_robot"}
        if others:
            raise ValueError(f"Agents of point_robot are needed, got one of {', '.join(sorted(others))}.")
        table = []
        for protocol in options.protocol:
            for split in ("test", "train"):
                found = [scores(agent, protocol, split, options.seed) for agent in agents]
                row = {"protocol": protocol, "split": split, "agents": len(agents)}
                for kind in ("dense", "sparse"):
                    values = [each[kind] for each in found]
                    ends = bootstrap_interval(values) if len(values) > 1 else None
                    row[kind] = {"mean": sum(values) / len(values), "ci95": ends, "per_agent": values}
                    interval = "" if ends is None else f"[{ends[0]:.2f}, {ends[1]:.2f}]"
                    print(f"{protocol:10} {split:6} {kind:7} {row[kind]['mean']:7.2f} {interval}", flush=True)
                table.append(row)
    except (AgentError, ValueError) as error:
        raise SystemExit(str(error)) from error
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        methods = sorted({agent.card.method for agent in agents})
        options.output.write_text(json.dumps({"methods": methods, "rows": table}, indent=1) + "\n")


if __name__ == "__main__":
    main()
