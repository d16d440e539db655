"""The meta-test of a MuJoCo family by configuration: in processes, and in actors of a local Ray cluster."""

from __future__ import annotations

import importlib.util
import json

import pytest

import ctmrl_torchrl

SIZES = [
    "env=hopper_rand_params", "preset=smoke", "schedule.updates=4", "output.checkpoint_every=4", "batch.tasks=2",
    "evaluation.every=0", "evaluation.final_repeats=1", "evaluation.episodes=3", "evaluation.random_episodes=2",
    "evaluation.protocols=[offline,online]", "output.progress=false", "output.figures=false",
]  # fmt: skip


@pytest.fixture
def cluster(monkeypatch):
    """A local cluster of two processors."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def returns(tmp_path):
    """The returns of the meta-test after a tiny training, which is the same for every collector."""

    def run(kind, workers):
        folder = tmp_path / f"{kind}-{workers}"
        changes = [f"evaluation.collector.kind={kind}", f"evaluation.collector.workers={workers}"]
        ctmrl_torchrl.run([*SIZES, *changes, f"dataset.root={tmp_path}/datasets", f"run_dir={folder}"])
        return json.loads((folder / "summary.json").read_text(encoding="utf-8"))["returns"]

    return run


@pytest.mark.slow
def test_one_process_of_its_own_plays_what_this_one_plays(returns):
    """Initial states and noisy actions are drawn in the worker, from the same seed."""
    assert returns("multi_sync", 1) == returns("single", 1)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_two_ray_actors_play_what_two_processes_play(returns, cluster):
    processes, actors = returns("multi_sync", 2), returns("ray", 2)
    assert actors == processes
    assert set(actors["test"]) == {"offline", "online"} and len(actors["test"]["online"]["per_task"]) == 10
