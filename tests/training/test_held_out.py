"""``held_out``: cross-validation over the training tasks, with the test tasks left alone."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_experiments import tiny_config

from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.checkpoint import CheckpointError
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.identity import run_identity
from ctmrl_torchrl.training.outcome import _behavior_return
from ctmrl_torchrl.training.validate import validate_config


@pytest.mark.parametrize("parts", [2, 5, 7, 30])
def test_every_training_task_is_held_out_once(parts):
    tasks = make_task_set("point_robot")
    folds = [tasks.hold_out(part, parts) for part in range(parts)]
    assert sorted(task for fold in folds for task in fold.test_ids) == list(tasks.train_ids)
    for fold in folds:
        assert set(fold.train_ids) | set(fold.test_ids) == set(tasks.train_ids)
        assert torch.equal(fold.parameters, tasks.parameters)


@pytest.mark.parametrize("part, parts", [(0, 1), (5, 5), (-1, 5), (0, 31)])
def test_a_part_that_does_not_exist(part, parts):
    with pytest.raises(ValueError, match="no part"):
        make_task_set("point_robot").hold_out(part, parts)


def test_a_run_learns_from_the_rest_and_is_tested_on_the_part(dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path / "run", {"held_out": "1/5"})
    tasks = make_task_set("point_robot")
    held_out = set(tasks.train_ids[1::5])
    seen = set()
    experiment = build_experiment(config)
    for _ in range(20):
        seen |= set(experiment.trainer.next_batch()["task_id"].flatten().tolist())
    assert seen and not seen & (held_out | set(tasks.test_ids))
    assert set(experiment.problem.train_ids) == set(tasks.train_ids) - held_out
    data = experiment.dataset
    rest = torch.tensor(sorted(set(tasks.train_ids) - held_out))
    rows = torch.isin(data.transitions["task_id"], rest)
    mean = data.transitions["observation"][rows].double().mean(0)
    found = experiment.problem.statistics["observation"][0].double()
    torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-4)

    summary = run_experiment(config)
    assert summary["held_out"] == "1/5"
    for result in summary["returns"]["test"].values():
        assert {int(task) for task in result["per_task"]} == held_out
    for result in summary["returns"]["train"].values():
        assert {int(task) for task in result["per_task"]} == set(tasks.train_ids) - held_out
    assert summary["reference"]["paper"] == {}
    assert summary["reference"]["random"] is None
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["held_out"] == "1/5"


def test_a_part_of_one_task_has_no_ratio_of_context_noise(dataset_root, tmp_path):
    changes = {"held_out": "0/30", "evaluation.repeats": 2, "evaluation.final_repeats": 2}
    returns = run_experiment(tiny_config(dataset_root, tmp_path / "run", changes))["returns"]
    assert len(returns["test"]["codes"]["per_task"]) == 1 and "context_noise" not in returns["test"]["codes"]
    assert returns["train"]["codes"]["context_noise"] is not None


def test_a_run_is_resumed_with_the_same_part_only(dataset_root, tmp_path):
    run_experiment(tiny_config(dataset_root, tmp_path / "run", {"held_out": "0/3"}))
    for other in (None, "1/3"):
        changes = {"held_out": other, "resume": str(tmp_path / "run")}
        with pytest.raises(CheckpointError, match="tasks"):
            run_experiment(tiny_config(dataset_root, tmp_path / "other", changes))


def test_earlier_checkpoints_have_the_identity_of_a_run_without_a_part(dataset_root, tmp_path):
    identity = run_identity(tiny_config(dataset_root, tmp_path, {}))
    assert identity["tasks"] == "repo" and "held_out" not in identity


@pytest.mark.parametrize(
    "given", ["5/5", "0/1", "1", "a/b", "0/31", "-1/5", "0/5/5", 0.2],
)  # fmt: skip
def test_a_part_that_is_refused_before_the_work(given, dataset_root, tmp_path):
    with pytest.raises(ConfigError, match="held_out"):
        validate_config(tiny_config(dataset_root, tmp_path, {"held_out": given}))


def test_a_batch_of_more_tasks_than_are_left(dataset_root, tmp_path):
    changes = {"held_out": "0/2", "batch.tasks": 16}
    with pytest.raises(ConfigError, match=r"batch.tasks.*at most 15.*held_out=0/2"):
        validate_config(tiny_config(dataset_root, tmp_path, changes))


def test_the_return_of_the_behavior_on_a_part():
    known = {"test": 3.0, "train": 5.0, "task_returns": [1.0, 2.0, None, 6.0]}
    assert _behavior_return(known, "test", None) == 3.0
    assert _behavior_return(known, "test", [1, 3]) == 4.0
    assert _behavior_return(known, "test", [1, 2]) is None
    assert _behavior_return({"test": 3.0}, "test", [0]) is None
    measured = known | {"task_ids": [0, 2, 3, 7]}  # data of some tasks alone
    assert _behavior_return(measured, "test", [2, 7]) == 4.0
    assert _behavior_return(measured, "test", [1]) is None
