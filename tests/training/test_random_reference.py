"""The return of random actions in families that do not state it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
from ctmrl_torchrl.envs import from_gymnasium, make_task_set, unregister_family
from ctmrl_torchrl.training.data import make_problem
from ctmrl_torchrl.training.data_report import data_report, format_data_table
from ctmrl_torchrl.training.random_reference import random_reference

RECIPE = CollectionRecipe(snapshot_steps=(1,), trajectories_per_snapshot=6, hidden_sizes=(8,))


class Paying(gymnasium.Env):
    """Pays the task's wage at every step, whatever is done."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
    strikes = False

    def __init__(self, wage):
        self.wage = wage

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        if Paying.strikes:
            raise ZeroDivisionError("on strike")
        return np.zeros(1, dtype=np.float32), self.wage, False, False, {}


class Tipping(Paying):
    """Pays nothing, and the wage as a tip."""

    def step(self, action):
        observation, wage, *ends, _ = super().step(action)
        return observation, 0.0, *ends, {"tip": wage}


@pytest.fixture
def tasks():
    wages = {"wage": lambda n: np.arange(n, dtype=float)}
    from_gymnasium("paying", Paying, wages, train_tasks=3, test_tasks=1, horizon=4)
    yield make_task_set("paying")
    Paying.strikes = False
    unregister_family("paying")


def expected(tasks):
    wages = 4 * tasks.parameters[:, 0]
    return {split: wages[list(getattr(tasks, f"{split}_ids"))].mean().item() for split in ("train", "test")}


def test_it_is_the_return_of_the_random_snapshot(tasks):
    dataset = collect_task_dataset("paying", recipe=RECIPE)
    Paying.strikes = True  # nothing is played
    assert random_reference(tasks, dataset, measure=True) == pytest.approx(expected(tasks))
    report = data_report(dataset)
    assert report["reference"]["random"] == pytest.approx(expected(tasks)["test"])
    assert "random" in format_data_table(report)


def test_without_a_random_snapshot_it_is_measured_where_asked_for(tasks, monkeypatch):
    dataset = collect_task_dataset("paying", recipe=RECIPE)
    dataset.manifest = dataset.manifest.replace(recipe={}, snapshots=[])
    assert random_reference(tasks, dataset) == {}
    assert random_reference(tasks, dataset, measure=True) == pytest.approx(expected(tasks))
    Paying.strikes, told = True, []
    monkeypatch.setattr("ctmrl_torchrl.training.random_reference.torchrl_logger.warning", told.append)
    assert random_reference(tasks, dataset, measure=True) == {}
    assert "paying could not be measured" in told[0] and "on strike" in told[0]


def test_the_split_without_data_is_measured(tasks):
    recipe = CollectionRecipe(
        snapshot_steps=(1,), trajectories_per_snapshot=6, hidden_sizes=(8,), behaviour_tasks="train_only"
    )
    dataset = collect_task_dataset("paying", recipe=recipe)
    assert random_reference(tasks, dataset)["test"] is None
    assert random_reference(tasks, dataset, measure=True) == pytest.approx(expected(tasks))


def test_a_reward_of_another_name_is_recorded_reported_and_standardized():
    wages = {"wage": lambda n: np.arange(n, dtype=float)}
    options = {"train_tasks": 3, "test_tasks": 1, "horizon": 4, "return_key": ("next", "tip")}
    from_gymnasium("tipping", Tipping, wages, **options)
    try:
        tasks = make_task_set("tipping")
        dataset = collect_task_dataset("tipping", recipe=RECIPE)
        assert random_reference(tasks, dataset) == pytest.approx(expected(tasks))
        assert data_report(dataset)["snapshots"][-1]["per_task"] == [0.0, 4.0, 8.0, 12.0]
        mean, deviation = make_problem(tasks, dataset).statistics["next", "tip"]
        paid = tasks.parameters[list(tasks.train_ids)]
        assert mean.item() == pytest.approx(paid.mean().item())
        assert deviation.item() == pytest.approx(paid.std(unbiased=False).item())
    finally:
        unregister_family("tipping")


def test_shipped_families_state_it():
    tasks = make_task_set("point_robot")
    dataset = collect_task_dataset("point_robot", recipe=RECIPE)
    assert random_reference(tasks, dataset, measure=True) == {"train": -20.35, "test": -20.36}
