"""Collectors, data sets and other processes use a guest like a shipped family."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest
import torch
from torchrl.collectors import Collector

from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
from ctmrl_torchrl.envs import make_env, make_task_set


def test_a_collector_sees_whole_episodes(cart):
    env = make_env("cart", [0, 1, 2], seed=0)
    collector = Collector(env, None, frames_per_batch=3 * 60, total_frames=3 * 60)
    (batch,) = list(collector)
    collector.shutdown()
    done = batch["next", "done"].squeeze(-1)
    starts = batch["observation"][:, 1:][done[:, :-1]]
    assert done.any(1).all() and (starts[:, 0].abs() <= 0.1).all() and (starts[:, 1] == 0).all()
    within = ~done[:, :-1]
    assert torch.equal(batch["observation"][:, 1:][within], batch["next", "observation"][:, :-1][within])


def test_the_data_of_a_guest_are_collected(cart):
    recipe = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=2, hidden_sizes=(8,))
    dataset = collect_task_dataset("cart", recipe=recipe)
    assert dataset.n_trajectories == 8 * 2 * 2 and dataset.manifest.env == "cart"
    assert dataset.transitions["observation"].shape[1:] == (2,)


@pytest.mark.ci
def test_a_task_set_carries_its_family_to_other_processes(cart):
    code = (
        "import pickle, sys; from ctmrl_torchrl.envs import family_names, make_env; "
        "tasks = pickle.loads(sys.stdin.buffer.read()); assert tasks.name not in family_names(); "
        "print(make_env(tasks.name, [3], task_set=tasks).rollout(4)['task_id'].tolist())"
    )
    path = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, input=pickle.dumps(make_task_set("cart")), env=path, capture_output=True)
    assert done.stdout.decode().strip().endswith("[[3, 3, 3, 3]]"), done.stderr.decode()
