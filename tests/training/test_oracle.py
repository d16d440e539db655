from __future__ import annotations

import pytest
import torch
from ctmrl_torchrl.training.oracle import train_oracle
from tiny_experiments import tiny_config

from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.objectives.policy import IQLConfig


def test_parameters_are_standardised_by_the_training_tasks():
    task_set = make_task_set("point_robot_wind")
    parameters = task_set.standardized_parameters()
    training = parameters[list(task_set.train_ids)]
    torch.testing.assert_close(training.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(training.std(0), torch.ones(2))
    assert parameters.shape == (40, 2)


@pytest.mark.parametrize("policy_loss", [None, IQLConfig(hidden=[8])])
def test_the_oracle_learns_and_repeats_itself(policy_loss, dataset_root, tmp_path):
    fields = {} if policy_loss is None else {"policy_loss": policy_loss}

    def oracle(updates, width):
        changes = {
            "schedule.updates": updates,
            "policy_loss.hidden": [width],
            "batch.tasks": 16,
            "batch.transitions": 64,
            "optimizer.policy_rate": 3e-3,
            "policy_loss.target_rate": 0.1,
        }
        return train_oracle(tiny_config(dataset_root, tmp_path, changes, **fields))

    short, again, longer = oracle(2, 32), oracle(2, 32), oracle(300, 32)
    assert short == again
    assert short["optimum"]["test"] == pytest.approx(-3.855, abs=1e-3) and short["updates"] == 2
    for split in ("train", "test"):
        assert short["optimum"][split] > longer["returns"][split] > short["returns"][split] + 3.0
