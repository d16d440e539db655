"""Behaviour that has practised on training tasks only, with data of the test tasks or without."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ctmrl_torchrl.data import CollectionRecipe, PPOSettings, collect_task_dataset, snapshot_returns
from ctmrl_torchrl.data.behaviour import conditioned, ppo, sac
from ctmrl_torchrl.envs import make_task_set

TASKS = make_task_set("point_robot", num_train=3, num_test=1)
SMALL = {"trajectories_per_snapshot": 2, "hidden_sizes": (8,), "rows_per_task": 2}
SAC = CollectionRecipe(snapshot_steps=(1, 3), batch_size=4, **SMALL)
TOLD = dataclasses.replace(SAC, agents="conditioned")
PPO = CollectionRecipe(
    snapshot_steps=(60, 120),
    agents="ppo",
    settings=PPOSettings(rollout_steps=10, round_steps=20, minibatches=1, spare_rows=0.5),
    **SMALL,
)


class LearnedError(Exception):
    """Learning has ended."""


@pytest.fixture
def learned(monkeypatch):
    """The task ids that learning has seen."""
    seen = set()
    evaluate, update = ppo.PPOAgents.evaluate, conditioned.ConditionedSAC.update

    def watch(original):
        def method(self, batch, *args):
            seen.update(batch["task_id"].flatten().tolist())
            return original(self, batch, *args)

        return method

    monkeypatch.setattr(ppo.PPOAgents, "evaluate", watch(evaluate))
    monkeypatch.setattr(conditioned.ConditionedSAC, "update", watch(update))
    return seen


@pytest.mark.parametrize("recipe", [TOLD, PPO], ids=["conditioned", "ppo"])
@pytest.mark.parametrize("choice", ["all", "train", "train_only"])
def test_what_is_learned_and_what_is_recorded(recipe, choice, learned):
    recipe = dataclasses.replace(recipe, behaviour_tasks=choice)
    dataset = collect_task_dataset("point_robot", recipe=recipe, task_set=TASKS)
    every = {0, 1, 2, 3}
    assert TASKS.test_ids == (2,)
    assert learned == (every if choice == "all" else every - {2})
    recorded = every - {2} if choice == "train_only" else every
    assert set(dataset.task_ids.tolist()) == set(dataset.transitions["task_id"].tolist()) == recorded
    assert dataset.n_trajectories == len(recorded) * 3 * 2
    assert dataset.manifest.recipe.get("behaviour_tasks", "all") == choice
    oracle, returns = dataset.manifest.oracle, snapshot_returns(dataset)
    assert len(oracle["task_returns"]) == len(returns["per_task"][0]) == len(recorded)
    assert (oracle["test"] is None) == (returns["test"][0] is None) == (choice == "train_only")
    # the rewards are those of each row's own task
    goal = TASKS.parameters.float()[dataset.transitions["task_id"]]
    distance = (dataset.transitions["next", "observation"] - goal).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(dataset.transitions["next", "reward"], -distance)


def test_test_behaviour_is_told_the_test_parameters():
    agents = ppo.PPOAgents.for_tasks(TASKS, PPO, seed=0, task_ids=TASKS.train_ids)
    told = TASKS.standardized_parameters()
    torch.testing.assert_close(agents.features.task_parameters, told)
    assert agents.task_ids == (0, 1, 3)


def test_an_agent_per_task_learns_training_tasks_only_without_test_data():
    recipe = dataclasses.replace(SAC, behaviour_tasks="train_only")
    dataset = collect_task_dataset("point_robot", recipe=recipe, task_set=TASKS)
    assert dataset.task_ids.tolist() == [0, 1, 3]
    assert sac.BatchedSAC.for_tasks(TASKS, recipe, seed=0, task_ids=TASKS.train_ids).num_tasks == 3


@pytest.mark.ci
@pytest.mark.parametrize("choice", ["all", pytest.param("train", marks=pytest.mark.slow), "train_only"])
def test_a_behaviour_learns_from_more_tasks_than_it_records(choice, learned):
    """The added tasks are those of the larger task set. They have no data."""
    few, many = (make_task_set("hopper_rand_params", preset) for preset in ("repo", "repo+3"))
    recipe = dataclasses.replace(PPO, behaviour_tasks=choice, trajectories_per_snapshot=1)
    broad = collect_task_dataset(
        "hopper_rand_params", recipe=dataclasses.replace(recipe, more_tasks=3), seed=2
    )
    recorded = set(few.train_ids) if choice == "train_only" else set(range(40))
    assert learned == set(many.train_ids) | (set(few.test_ids) if choice == "all" else set())
    assert set(broad.task_ids.tolist()) == recorded and broad.manifest.preset == "repo"
    assert (broad.manifest.train_ids, broad.manifest.test_ids) == (few.train_ids, few.test_ids)
    assert broad.manifest.recipe["more_tasks"] == 3
    assert len(broad.manifest.oracle["task_returns"]) == len(recorded)


def test_the_behaviour_is_that_of_the_larger_task_set(monkeypatch):
    """Equal policies, whether the added tasks are recorded or not; compared before anything is."""
    taken = []

    def watched(tasks, agents, policies, *args, **options):
        taken.append(policies)
        raise LearnedError

    monkeypatch.setattr("ctmrl_torchrl.data.behaviour.collect.record_snapshots", watched)
    for preset, more in (("repo", 3), ("repo+3", 0)):
        recipe = dataclasses.replace(PPO, trajectories_per_snapshot=1, more_tasks=more)
        with pytest.raises(LearnedError):
            collect_task_dataset("hopper_rand_params", preset=preset, recipe=recipe, seed=2)
    assert len(taken[0]) == len(taken[1]) == 3
    for mine, full in zip(*taken, strict=True):
        assert (mine is None and full is None) or (mine == full).all()


def test_tasks_cannot_be_added_where_they_depend_on_their_number(learned):
    recipe = dataclasses.replace(PPO, more_tasks=2)
    with pytest.raises(ValueError, match="cannot be added to 'repo' of 'point_robot'"):
        collect_task_dataset("point_robot", recipe=recipe)
    assert not learned
    with pytest.raises(ValueError, match="more_tasks.*whole number"):
        dataclasses.replace(PPO, more_tasks=-1)
