"""Recorded policies played by several workers: the same data as in one process."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util

import pytest
import torch

from ctmrl_torchrl.collector_kinds import COLLECTORS, CollectorConfig, CollectorKind
from ctmrl_torchrl.commands.collect import main
from ctmrl_torchrl.data import (
    CollectionRecipe,
    PPOSettings,
    TaskDataset,
    collect_task_dataset,
    register_recipe,
)
from ctmrl_torchrl.data.behaviour import unregister_recipe
from ctmrl_torchrl.data.behaviour.agents import get_agents
from ctmrl_torchrl.data.behaviour.recording import record_snapshots
from ctmrl_torchrl.envs import PointRobotEnv, make_task_set
from ctmrl_torchrl.envs.mujoco.env import MujocoEnv
from ctmrl_torchrl.rules import ConfigError

PPO = CollectionRecipe(
    snapshot_steps=(80, 300, 720),
    trajectories_per_snapshot=2,
    hidden_sizes=(8,),
    rows_per_task=2,
    agents="ppo",
    settings=PPOSettings(rollout_steps=10, round_steps=30, epochs=2, minibatches=2),
)
SMALL = {"trajectories_per_snapshot": 2, "hidden_sizes": (8,), "snapshot_steps": (1,)}
RECIPES = {
    "ppo": PPO,
    "conditioned": CollectionRecipe(agents="conditioned", **SMALL),
    "per_task": CollectionRecipe(agents="per_task", **SMALL),
}


class Pretended:
    """Workers that take turns in this process, and count their rounds."""

    rounds = 0

    def __init__(self, parts):
        self.env = [make() for make in parts.make_envs]
        self.policy = [copy.deepcopy(make()) for make in parts.make_policies]

    def map_fn(self, name, arguments):
        worker, method = name.split(".")
        return [
            getattr(each, method)(*args) for each, args in zip(getattr(self, worker), arguments, strict=True)
        ]

    def __iter__(self):
        while True:
            Pretended.rounds += 1
            yield torch.stack([self.play(*pair) for pair in zip(self.env, self.policy, strict=True)])

    def play(self, env, policy):
        state, steps = env.reset(), []
        for _ in range(env.horizon):
            step, state = env.step_and_maybe_reset(policy(state))
            steps.append(step)
        return torch.stack(steps, 1)

    def shutdown(self):
        pass


@pytest.fixture
def pretended():
    Pretended.rounds = 0
    COLLECTORS.register("pretended", CollectorKind(Pretended))
    yield lambda workers: CollectorConfig("pretended", workers)
    COLLECTORS.unregister("pretended")


def few(env, **changes):
    tasks = make_task_set(env, num_train=3, num_test=1)
    return dataclasses.replace(tasks, family=dataclasses.replace(tasks.family, **changes))


def record(tasks, recipe, collector=None):
    """Recorded rows of the random policy and of four untrained ones."""
    agents = get_agents(recipe.agents).for_tasks(tasks, recipe, seed=0)
    policies = [None, *(agents.snapshot().apply(lambda leaf, k=k: leaf * (1 + k)) for k in range(4))]
    return record_snapshots(tasks, agents, policies, 2, seed=3, collector=collector)


def same_rows(one, other):
    return one.batch_size == other.batch_size and bool((one == other).all())


@pytest.mark.parametrize("env", ["point_robot", pytest.param("half_cheetah_vel", marks=pytest.mark.ci)])
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("workers", "rounds"), [(1, 5), (2, 3), (9, 1)])
def test_the_rows_are_those_of_one_process(env, recipe, workers, rounds, pretended):
    """All agents draw the expected numbers, so that no episode is played in vain."""
    tasks = few(env)
    state = torch.get_rng_state()
    rows = record(tasks, RECIPES[recipe], pretended(workers))
    assert Pretended.rounds == rounds
    if env == "point_robot":  # a robot's environment is created with global numbers
        assert torch.equal(state, torch.get_rng_state())
    assert same_rows(rows, record(tasks, RECIPES[recipe]))


@pytest.mark.ci
@pytest.mark.parametrize(("known", "rounds"), [(True, 5), (False, 5)])
def test_episodes_that_end_early_are_recorded_one_policy_after_the_other(known, rounds, pretended):
    """If a family does not say so, episodes with wrong initial states are played again."""
    tasks = few("hopper_rand_params", terminates=known)
    assert same_rows(record(tasks, PPO, pretended(3)), record(tasks, PPO))
    assert Pretended.rounds == rounds


class Secretive(MujocoEnv):
    """A robot whose random numbers are nobody's business."""

    @property
    def random_state(self):
        raise AttributeError


class Wandering(PointRobotEnv):
    """A robot that counts its episodes with global numbers."""

    def _reset(self, tensordict=None, **kwargs):
        torch.rand(3)
        return super()._reset(tensordict, **kwargs)


def build_secretive(task_set, task_ids, device):
    return Secretive(task_set, task_ids, device=device)


def build_wandering(task_set, task_ids, device):
    return Wandering(task_set, task_ids, device=device)


@pytest.mark.parametrize(
    ("env", "builder", "rounds"),
    [
        pytest.param("half_cheetah_vel", "build_secretive", 5, marks=pytest.mark.ci),
        ("point_robot", "build_wandering", 2),
    ],
)
def test_environments_with_other_random_numbers(env, builder, rounds, pretended):
    tasks = few(env, env_builder=f"{__name__}:{builder}")
    assert same_rows(record(tasks, PPO, pretended(4)), record(tasks, PPO))
    assert Pretended.rounds == rounds


@pytest.mark.parametrize(
    ("collector", "options", "message"),
    [
        (CollectorConfig("singel"), {}, "collector.kind: got 'singel'.* Did you mean 'single'"),
        (CollectorConfig("multi_sync", 0), {}, "collector.workers: got 0"),
        (CollectorConfig("single", 2), {}, "collector.workers: got 2, allowed is 1 for"),
        (
            CollectorConfig("multi_sync", 2),
            {"device": "cuda"},
            "collector.kind: got .*'single' with device='cuda'",
        ),
    ],
)
def test_collectors_are_refused_before_any_work(collector, options, message):
    with pytest.raises(ConfigError, match=message):
        collect_task_dataset("point_robot", recipe=PPO, collector=collector, **options)


@pytest.fixture
def collected(tmp_path):
    """The name and the manifest of a MuJoCo family's dataset, as ``ctmrl collect`` makes it."""
    register_recipe("tiny_ppo", PPO, simulator="mujoco")

    def collect(kind, workers):
        root = tmp_path / f"{kind}-{workers}"
        changes = [f"dataset.collector.kind={kind}", f"dataset.collector.workers={workers}"]
        options = ["dataset.recipe=tiny_ppo", f"dataset.root={root}", "output.progress=false"]
        assert main(["env=half_cheetah_vel", *options, *changes]) == 0
        (folder,) = root.iterdir()
        manifest = TaskDataset.load(folder).manifest
        return folder.name, manifest.content_digest(), manifest

    yield collect
    unregister_recipe("tiny_ppo", simulator="mujoco")


@pytest.fixture
def cluster(monkeypatch):
    """A local cluster of two processors."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.slow
def test_two_processes_record_what_this_one_records(collected):
    assert collected("multi_sync", 2) == collected("single", 1)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_ray_actors_record_what_this_process_records(collected, cluster):
    assert collected("ray", 2) == collected("single", 1)
