"""Wall time of a meta-test: every protocol on the unseen tasks, all tasks and repeats as one batch.

python benchmarks/meta_test.py            # Point-Robot, the final meta-test of preset quick
python benchmarks/meta_test.py --env half_cheetah_vel --repeats 1 --output results/benchmarks/meta_test.json
python benchmarks/meta_test.py --profile np     # where the time of one protocol goes, function by function

``episode`` compares one deterministic episode of the TorchRL collector with the same one of ``env.rollout``,
the two taking turns: microseconds of CPU per step of all rows.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cases import RELEASED_SIZES, Case, make_case
from measure import four_digits, write_json
from tensordict import TensorDictBase
from torchrl._utils import logger as torchrl_logger
from torchrl.envs.utils import ExplorationType, set_exploration_type

from ctmrl_torchrl.collectors import EpisodeCollector, MetaTestCollector
from ctmrl_torchrl.envs import make_env
from ctmrl_torchrl.objectives.policy import ActingPolicy
from ctmrl_torchrl.training.tester import MetaTester


def make_tester(env: str) -> tuple[Case, MetaTester]:
    """A case of preset ``quick`` with untrained networks, and what meta-tests it."""
    case = make_case([f"env={env}", "preset=quick"], transitions_per_task=2_800)
    codes = case.loss.representation.codebook.codes.detach()
    tester = MetaTester(
        case.task_set,
        case.dataset,
        ActingPolicy(case.loss.policy),
        case.loss.context_encoder,
        context_dim=case.config.encoder.context_dim,
        candidates=lambda: codes,
        config=case.config.evaluation,
        device=codes.device,
    )
    return case, tester


def measure_meta_test(env: str, repeats: int | None, rounds: int) -> dict[str, Any]:
    """Seconds and environment steps per second of each protocol, and the cost of an episode."""
    case, tester = make_tester(env)
    repeats = repeats or case.config.evaluation.final_repeats
    tasks, result = case.task_set.test_ids, {}
    collector = tester.collector(tasks, repeats)
    for protocol in tester.protocols():
        taken = []
        for _ in range(rounds):
            start = time.perf_counter()
            run = collector.run(protocol, seed=0)
            taken.append(time.perf_counter() - start)
        # E measured episodes, and a collected one between each two of them.
        episodes = 2 * run["returns"].shape[-1] - 1
        steps = len(tasks) * repeats * episodes * case.task_set.family.horizon
        best = min(taken)
        result[protocol.name] = {
            "seconds": four_digits(best),
            "env_steps": steps,
            "env_steps_per_second": four_digits(steps / best),
        }
    episode = measure_episode(case, tester.actor, repeats, max(rounds, 3))
    return {"env": env, "tasks": len(tasks), "repeats": repeats, "protocols": result, "episode": episode}


def measure_episode(case: Case, actor: ActingPolicy, repeats: int, rounds: int) -> dict[str, float]:
    """CPU time of one step of all rows, by ``env.rollout`` and by the collector: the median of the rounds."""
    rows = torch.tensor(case.task_set.test_ids).repeat_interleave(repeats)
    env, horizon = make_env(case.task_set.name, rows, task_set=case.task_set), case.task_set.family.horizon
    context = torch.zeros(len(rows), case.config.encoder.context_dim)
    episodes = EpisodeCollector(env, actor, task_ids=rows, horizon=horizon)

    def by_rollout() -> TensorDictBase:
        def policy(tensordict: TensorDictBase) -> TensorDictBase:
            return actor(tensordict.set("task_context", context))

        with set_exploration_type(ExplorationType.DETERMINISTIC):
            return env.rollout(horizon, policy, break_when_any_done=False)

    ways: dict[str, Callable[[], TensorDictBase]] = {
        "rollout": by_rollout,
        "collector": lambda: episodes.play(context),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    with torch.no_grad(), episodes.session(seed=0):
        for _ in range(rounds):
            for name, play in ways.items():
                start = time.process_time()
                play()
                taken[name].append((time.process_time() - start) / horizon * 1e6)
    result = {f"{name}_us_per_step": four_digits(statistics.median(each)) for name, each in taken.items()}
    result["collector_times_rollout"] = four_digits(
        result["collector_us_per_step"] / result["rollout_us_per_step"]
    )
    return result


def profile(env: str, repeats: int | None, name: str) -> None:
    """Print the functions in which one protocol spends most time."""
    case, tester = make_tester(env)
    repeats = repeats or case.config.evaluation.final_repeats
    collector: MetaTestCollector = tester.collector(case.task_set.test_ids, repeats)
    protocols = {each.name: each for each in tester.protocols()}
    collector.run(protocols[name], seed=0)
    profiler = cProfile.Profile()
    profiler.runcall(collector.run, protocols[name], seed=0)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(40)


def main() -> None:
    """Measure, log a table, write JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--env", default="point_robot", choices=sorted(RELEASED_SIZES))
    parser.add_argument("--repeats", type=int, help="of every task; default: those of the final meta-test")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", metavar="PROTOCOL", help="show where the time of this protocol goes")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.profile is not None:
        profile(arguments.env, arguments.repeats, arguments.profile)
        return
    result = measure_meta_test(arguments.env, arguments.repeats, arguments.rounds)
    for name, entry in result["protocols"].items():
        torchrl_logger.info(
            f"{name:10s} {entry['seconds']:7.2f} s  {entry['env_steps_per_second']:9,.0f} env steps/s"
        )
    torchrl_logger.info(f"one step of all rows: {result['episode']}")
    if arguments.output is not None:
        write_json(arguments.output, result)


if __name__ == "__main__":
    main()
