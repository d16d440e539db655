"""Which value of a task parameter makes a task hard? The behavior agent, trained at several values of it.

    python examples/parameter_levels.py hopper_rand_params log_geom_friction_12 \
        --tasks 2 11 13 15 19 20 29 33 --levels 0 0.25 0.4 0.5 --output results/ppo/hopper-foot-friction.json

Tasks stay behind for one of two reasons: the agent has not learned enough there, or the task is hard.
``ctmrl collect`` prints the parameters that go with the returns of the tasks. This program gives chosen tasks
other values of one of them, trains a single PPO agent on all of these and on the tasks as they are, and prints
the mean return at every value. If intermediate values do not help on the tasks as they are, these are hard.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ctmrl_torchrl.data.behaviour import get_recipe
from ctmrl_torchrl.data.behaviour.ppo import PPOAgents
from ctmrl_torchrl.data.behaviour.ppo_training import PPOTraining
from ctmrl_torchrl.envs import TaskSet, make_task_set
from ctmrl_torchrl.errors import told_plainly


def at_levels(tasks: TaskSet, chosen: list[int], parameter: str, levels: list[float]) -> TaskSet:
    """Every chosen task with the parameter at each level and, last, as it is."""
    column = tasks.parameter_names.index(parameter)
    rows = []
    for task in chosen:
        for level in [*levels, float(tasks.parameters[task, column])]:
            rows.append(tasks.parameters[task].clone())
            rows[-1][column] = level
    rows.append(rows[0])  # a task set needs a test task; the agent does not train on it
    return TaskSet(tasks.family, "levels", torch.stack(rows), tuple(range(len(rows) - 1)), (len(rows) - 1,))


def train(tasks: TaskSet, steps: int, seed: int, progress: bool) -> torch.Tensor:
    """Mean return of the last round of episodes of every training task."""
    recipe = replace(get_recipe("small", tasks.name), snapshot_steps=(steps,))
    agents = PPOAgents.for_tasks(tasks, recipe, seed=seed, task_ids=tasks.train_ids)
    training = PPOTraining(tasks, agents, recipe, seed=seed, progress=progress)
    training.run()
    return training.task_returns


def main() -> None:
    """Train, print the mean return at every level."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env", help="family whose default recipe uses PPO")
    parser.add_argument("parameter", help="name of a task parameter")
    parser.add_argument("--tasks", type=int, nargs="+", required=True, help="ids of the tasks")
    parser.add_argument("--levels", type=float, nargs="+", required=True, help="values of the parameter")
    parser.add_argument("--steps", type=int, default=3_000_000, help="environment steps of all rows together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-progress", action="store_true")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with told_plainly():
        tasks = make_task_set(options.env)
    if options.parameter not in tasks.parameter_names:
        parser.error(
            f"{options.env} has no parameter {options.parameter!r}; it has {', '.join(tasks.parameter_names)}"
        )
    known = range(len(tasks.parameters))
    if wrong := [task for task in options.tasks if task not in known]:
        parser.error(f"--tasks: {options.env} has the tasks 0 to {len(known) - 1}, not {wrong}")
    if get_recipe("small", options.env).agents != "ppo":
        parser.error(f"the behavior of {options.env} is not trained by PPO")
    torch.set_num_threads(1)
    levels = at_levels(tasks, options.tasks, options.parameter, options.levels)
    returns = train(levels, options.steps, options.seed, not options.no_progress)
    table = returns.reshape(len(options.tasks), -1)
    result: dict[str, Any] = {
        name: getattr(options, name) for name in ("env", "parameter", "tasks", "steps", "seed")
    }
    result["levels"] = [*options.levels, "own"]
    result["returns"] = [[round(value, 1) for value in row] for row in table.tolist()]
    for level, mean in zip(result["levels"], table.mean(0).tolist(), strict=True):
        print(f"{options.parameter} {level!s:>6}: mean return {mean:.1f}")
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
