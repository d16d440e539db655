"""FOCAL, a method that is one page and one YAML file, trains on all three point robots with every preset."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_experiments import metric_rows, random_dataset

from ctmrl_torchrl import run
from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.methods import FOCALConfig
from ctmrl_torchrl.objectives import MetricLoss
from ctmrl_torchrl.training.compose import choices, compose_config
from ctmrl_torchrl.training.validate import validate_config

POINT_ROBOTS = ("point_robot", "point_robot_wind", "sparse_point_robot")
#: what a preset says of sizes, cut to a second
TINY = [
    "schedule.updates=4",
    "batch.transitions=8",
    "batch.tasks=6",
    "sizes.encoder_hidden=[8,8]",
    "sizes.policy_hidden=[8]",
    "encoder.context_dim=4",
    "evaluation.episodes=3",
    "evaluation.random_episodes=2",
    "evaluation.candidates=2",
    "evaluation.repeats=1",
    "evaluation.final_repeats=1",
    "evaluation.protocols=[np,codes]",
    "output.log_every=1",
    "output.logger=none",
    "output.figures=false",
    "output.progress=false",
    "device=cpu",
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Folders of random data, one for every family and task preset."""
    root, made = tmp_path_factory.mktemp("data"), {}

    def folder(env, tasks):
        if (env, tasks) not in made:
            dataset = random_dataset(make_task_set(env, tasks))
            made[env, tasks] = dataset.save(root / f"{env}-{tasks}")
        return made[env, tasks]

    return folder


@pytest.mark.ci
@pytest.mark.parametrize("env", POINT_ROBOTS)
@pytest.mark.parametrize("preset", choices("preset"))
def test_it_trains_on_every_point_robot_with_every_preset(preset, env, data, tmp_path):
    choice = ["method=focal", f"env={env}", f"preset={preset}"]
    whole = compose_config(choice)
    validate_config(whole)
    assert isinstance(whole.representation, FOCALConfig) and whole.batch.repeat_tasks
    path = [f"dataset.path={data(env, whole.tasks)}", f"run_dir={tmp_path}"]
    summary = run([*choice, *TINY, *path])
    assert (summary["env"], summary["method"], summary["preset"]) == (env, "focal", preset)
    assert summary["updates"] == 4 and "codebook" not in summary
    assert set(summary["returns"]["test"]) == {"np", "codes"}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert summary["command"].startswith(f"ctmrl train method=focal env={env} preset={preset}")
    names = {name for _, name, _ in metric_rows(tmp_path)}
    assert "diagnostics/context_distance" in names
    assert ("loss/loss_metric" in names) and ("loss/loss_actor" in names)


def test_the_encoder_learns_from_the_metric_alone(data, tmp_path):
    from ctmrl_torchrl.training.experiment import build_experiment

    path = [f"dataset.path={data('point_robot', 'repo')}", f"run_dir={tmp_path}"]
    config = compose_config(["method=focal", "batch.repeat_tasks=true", *TINY, *path])
    experiment = build_experiment(config)
    assert type(experiment.loss.representation) is MetricLoss and experiment.parts.parts == []
    before = {name: value.clone() for name, value in experiment.loss.named_parameters()}
    torch.manual_seed(0)
    experiment.trainer.train()
    moved = {
        name for name, value in experiment.loss.named_parameters() if not torch.equal(value, before[name])
    }
    assert any(name.startswith("context_encoder.") for name in moved)
    tasks = experiment.trainer.next_batch()["task_id"]
    assert tasks.numel() == 6  # drawn with replacement: only tasks drawn twice attract each other
    drawn = [experiment.trainer.next_batch()["task_id"].unique().numel() for _ in range(20)]
    assert min(drawn) < 6
