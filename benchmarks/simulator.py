"""Control steps per second: batched environments, a bare loop over ``mj_step``, and what else there is.

python benchmarks/simulator.py                                  # half cheetah, 40 rows
python benchmarks/simulator.py --family ant_goal --rows 40 --rounds 12
python benchmarks/simulator.py --output results/benchmarks/simulator-half_cheetah_vel.json

The contestants take turns in every round, so that what else the machine does meets all of them; medians over
rounds are compared. CPU time counts the threads of the process, wall time is given beside it; of contestants
that work in other processes only the latter means something.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import torch
from torchrl._utils import logger as torchrl_logger
from torchrl.envs import EnvBase, GymEnv, ParallelEnv
from torchrl.envs.custom.mujoco import AntEnv, HopperEnv, Walker2dEnv

from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.envs.mujoco.models import load_model
from ctmrl_torchrl.envs.mujoco.robots import ROBOTS

GYMNASIUM = {
    "half_cheetah_vel": "HalfCheetah-v5",
    "ant_goal": "Ant-v5",
    "hopper_rand_params": "Hopper-v5",
    "walker_rand_params": "Walker2d-v5",
}
#: TorchRL's own MuJoCo environments; there is none of the half cheetah
TORCHRL = {"ant_goal": AntEnv, "hopper_rand_params": HopperEnv, "walker_rand_params": Walker2dEnv}


def bare_loop(family: str, rows: int, *, interleaved: bool = True) -> Callable[[int], None]:
    """``steps`` control steps of every row, one ``MjData`` each, nothing but the simulation.

    Interleaved, every row makes its step before the next one begins, as anything must that chooses actions by
    what it has seen; otherwise a row plays its whole episode first, which suits the processor's caches.
    """
    robot = ROBOTS[family]
    model = load_model(robot)
    generator = np.random.default_rng(0)
    simulations = [mujoco.MjData(model) for _ in range(rows)]

    def run(steps: int) -> None:
        actions = generator.uniform(-1.0, 1.0, (steps, rows, model.nu))
        for data in simulations:
            mujoco.mj_resetData(model, data)
        moves = [(data, actions[:, row]) for row, data in enumerate(simulations)]
        turns = range(steps) if interleaved else [slice(None)]
        for turn in turns:
            for data, own in moves:
                for action in np.atleast_2d(own[turn]):
                    data.ctrl[:] = action
                    mujoco.mj_step(model, data, nstep=robot.frame_skip)

    return run


def rollout(env: EnvBase) -> Callable[[int], None]:
    """A TorchRL rollout with random actions; rows that end are reset."""

    def run(steps: int) -> None:
        env.rollout(steps, break_when_any_done=False)

    return run


def steps_only(env: EnvBase) -> Callable[[int], None]:
    """``env.step`` alone, an episode at a time; actions are there beforehand."""

    def run(steps: int) -> None:
        actions = env.full_action_spec.expand(steps, *env.batch_size).rand()
        for number, action in enumerate(actions):
            if number % env.horizon == 0:
                env.reset()
            env.step(action)

    return run


def inner_loop(env: EnvBase) -> Callable[[int], None]:
    """Steps, the way to the next state, and resets, as a collector's inner loop has them."""

    def run(steps: int) -> None:
        state = env.reset()
        actions = env.full_action_spec.expand(steps, *env.batch_size).rand()["action"]
        for action in actions:
            state = env.step_and_maybe_reset(state.set("action", action))[1]

    return run


def gymnasium_vector(env: gymnasium.vector.VectorEnv) -> Callable[[int], None]:
    """Gymnasium's vector environments with random actions; they reset their rows themselves."""

    def run(steps: int) -> None:
        env.reset(seed=0)
        for _ in range(steps):
            env.step(env.action_space.sample())

    return run


def timed(run: Callable[[int], None], steps: int) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    run(steps)
    return time.process_time() - cpu, time.perf_counter() - wall


#: what is to be run, rows it steps at once, and steps in a turn
Contestant = tuple[Callable[[int], None], int, int]


def ours(family: str, rows: int, steps: int, threads: list[int]) -> dict[str, Contestant]:
    """The bare loop and the batched environment."""
    task_ids = torch.arange(rows) % len(make_env(family).task_ids)
    contestants: dict[str, Contestant] = {
        "bare mj_step loop": (bare_loop(family, rows), rows, steps),
        "the same, row by row": (bare_loop(family, rows, interleaved=False), rows, steps),
    }
    for count in threads:
        env = make_env(family, task_ids, threads=count, seed=0)
        contestants[f"env.step, {count} thread(s)"] = steps_only(env), rows, steps
        contestants[f"step and reset, {count} thread(s)"] = inner_loop(env), rows, steps
        contestants[f"rollout, {count} thread(s)"] = rollout(env), rows, steps
    return contestants


def vector_environments(
    family: str, rows: int, steps: int, workers: int, opened: ExitStack
) -> dict[str, Contestant]:
    """Gymnasium's and TorchRL's; ``opened`` closes the latter's processes."""
    name = GYMNASIUM[family]
    one_process = gymnasium.make_vec(name, num_envs=rows, vectorization_mode="sync")
    parallel = ParallelEnv(workers, partial(GymEnv, name))
    opened.callback(parallel.close, raise_if_closed=False)
    return {
        "gymnasium, one process": (gymnasium_vector(one_process), rows, steps),
        f"TorchRL ParallelEnv, {workers} processes": (rollout(parallel), workers, steps),
    }


def torchrl_environments(family: str, rows: int, steps: int) -> dict[str, Contestant]:
    """TorchRL's own with MuJoCo's C library, one row and all rows in one process."""
    if family not in TORCHRL:
        return {}
    kind, skip = TORCHRL[family], ROBOTS[family].frame_skip
    one = kind(backend="mujoco", frame_skip=skip)
    serial = kind(backend="mujoco", frame_skip=skip, num_envs=rows, parallel=False)
    return {
        f"TorchRL {kind.__name__}, one row": (rollout(one), 1, steps),
        f"TorchRL {kind.__name__}, serial": (rollout(serial), rows, max(steps // 4, 1)),
    }


def measure(
    family: str, rows: int, rounds: int, steps: int, threads: list[int], others: bool = True
) -> dict[str, dict[str, float]]:
    """Median control steps per CPU second and per second of every contestant, and their ratios."""
    single = max(steps // 4, 1)
    contestants = ours(family, rows, steps, threads)
    contestants["TorchRL GymEnv rollout"] = rollout(GymEnv(GYMNASIUM[family])), 1, single
    with ExitStack() as opened:
        contestants |= torchrl_environments(family, rows, single)
        if others:
            contestants |= vector_environments(family, rows, single, max(threads), opened)
        rates: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
        for run, _, length in contestants.values():
            run(max(length // 10, 1))
        for _ in range(rounds):
            for name, (run, width, length) in contestants.items():
                cpu, wall = timed(run, length)
                rates[name].append((width * length / cpu, width * length / wall))
    medians = {
        name: {
            "steps_per_cpu_second": statistics.median(cpu for cpu, _ in values),
            "steps_per_second": statistics.median(wall for _, wall in values),
        }
        for name, values in rates.items()
    }
    for entry in medians.values():  # in the order in which the table reads them
        for other, label in (("bare mj_step loop", "bare_loop"), ("TorchRL GymEnv rollout", "gym_env")):
            ratio = entry["steps_per_cpu_second"] / medians[other]["steps_per_cpu_second"]
            entry[f"times_{label}"] = ratio
    return medians


def main() -> None:
    """Measure, log a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", default="half_cheetah_vel", choices=sorted(GYMNASIUM))
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument(
        "--no-others", dest="others", action="store_false", help="without vector environments of others"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = {name: value for name, value in vars(arguments).items() if name != "output"}
    medians = measure(**settings)
    for name, entry in medians.items():
        cpu, wall, bare, gym = entry.values()
        torchrl_logger.info(
            f"{name:34s} {cpu:8.0f} steps / CPU s {wall:8.0f} / s {bare:6.2f} x bare {gym:6.1f} x GymEnv"
        )
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        load = os.getloadavg()[0]
        result = settings | {"mujoco": mujoco.__version__, "load": round(load, 1), "rates": medians}
        arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
