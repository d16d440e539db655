"""The oracle is a method like any other: an encoder that is told the task, and no representation loss."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_experiments import metric_rows, tiny_config

from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.methods import NoRepresentationConfig
from ctmrl_torchrl.modules import TaskParameters
from ctmrl_torchrl.modules.encoder_configs import TaskParametersConfig
from ctmrl_torchrl.objectives.policy import IQLConfig
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment


def test_parameters_are_standardized_by_the_training_tasks():
    task_set = make_task_set("point_robot_wind")
    parameters = task_set.standardized_parameters()
    training = parameters[list(task_set.train_ids)]
    torch.testing.assert_close(training.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(training.std(0), torch.ones(2))
    assert parameters.shape == (40, 2)


def oracle_config(dataset_root, run_dir, changes=None, **fields):
    changes = {"evaluation.protocols": ["told"], "method": "oracle"} | (changes or {})
    sections = {"encoder": TaskParametersConfig(), "representation": NoRepresentationConfig()}
    return tiny_config(dataset_root, run_dir, changes, **(sections | fields))


def test_what_the_command_line_chooses():
    """``method=oracle`` is the composition that is tested here."""
    config = compose_config(["method=oracle", "env=point_robot"])
    assert type(config.encoder) is TaskParametersConfig
    assert type(config.representation) is NoRepresentationConfig
    assert config.evaluation.protocols == ["told"]


def test_the_encoder_holds_the_parameters_and_only_the_policy_is_optimized(dataset_root, tmp_path):
    experiment = build_experiment(oracle_config(dataset_root, tmp_path))
    encoder, loss = experiment.loss.context_encoder, experiment.loss
    expected = experiment.task_set.standardized_parameters()
    assert type(encoder) is TaskParameters and torch.equal(encoder.table, expected)
    assert not list(encoder.parameters()) and not list(loss.representation.parameters())
    (group,) = experiment.trainer.optimizer.param_groups
    assert group["name"] == "policy"
    batch = experiment.trainer.next_batch()
    contexts = loss.encode(batch, loss.tensor_keys.context)
    assert torch.equal(contexts, expected[batch["task_id"]])
    assert experiment.parts.parts == []


@pytest.mark.ci
@pytest.mark.parametrize("policy_loss", [None, IQLConfig(hidden=[8])])
def test_the_oracle_learns_and_repeats_itself(policy_loss, dataset_root, tmp_path):
    fields = {} if policy_loss is None else {"policy_loss": policy_loss}

    def oracle(updates, run_dir):
        changes = {
            "schedule.updates": updates,
            "policy_loss.hidden": [32],
            "batch.tasks": 16,
            "batch.transitions": 64,
            "optimizer.policy_rate": 3e-3,
            "policy_loss.target_rate": 0.1,
            "evaluation.every": 0,
        }
        return run_experiment(oracle_config(dataset_root, tmp_path / run_dir, changes, **fields))

    short, again, longer = oracle(2, "short"), oracle(2, "again"), oracle(300, "longer")
    assert short["returns"] == again["returns"]
    assert short["reference"]["optimum"] == pytest.approx(-3.855, abs=1e-3) and short["updates"] == 2
    for split, reference in (("test", short["reference"]), ("train", short["reference"]["train"])):
        means = [run["returns"][split]["told"]["mean"] for run in (short, longer)]
        assert reference["optimum"] > means[1] > means[0] + 3.0


def test_a_whole_run_writes_what_every_run_writes(dataset_root, tmp_path):
    changes = {"output.figures": True, "evaluation.final_repeats": 2}
    summary = run_experiment(oracle_config(dataset_root, tmp_path, changes))
    assert summary == json.loads((tmp_path / "summary.json").read_text())
    assert summary["method"] == "oracle" and "codebook" not in summary
    for split, tasks in (("test", 10), ("train", 30)):
        result = summary["returns"][split]["told"]
        assert len(result["per_episode"]) == 1 and len(result["per_task"]) == tasks
        # one answer of the oracle, and not a single step in the environment
        assert result["cost"]["oracle_answers"] == 1.0 and result["cost"]["env_steps"] == 0.0
        assert result["context_noise"] == pytest.approx(0.0, abs=1e-6)
    names = {name for _, name, _ in metric_rows(tmp_path)}
    assert {"loss/loss_actor", "eval/test/told/return"} <= names
    assert not any(name.startswith("codebook/") for name in names)
    pictures = {path.stem for path in (tmp_path / "figures").iterdir()}
    assert {"adaptation", "context_map", "data", "learning", "trajectories"} <= pictures
