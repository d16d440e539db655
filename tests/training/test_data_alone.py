"""``env=dataset``: data are all there is, of an environment that nobody has registered."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_experiments import metric_rows, random_dataset, random_transitions

from ctmrl_torchrl import run
from ctmrl_torchrl.data import DatasetError, DatasetManifest, TaskDataset
from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.evaluation import format_summary_table
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.data import obtain_data, tasks_of_dataset
from ctmrl_torchrl.training.data_report import data_report, format_data_table
from ctmrl_torchrl.training.experiment import build_experiment

TINY = [
    "env=dataset",
    "preset=smoke",
    "schedule.updates=8",
    "batch.tasks=3",
    "batch.transitions=8",
    "context.trajectories=[1,2]",
    "sizes.encoder_hidden=[8]",
    "sizes.policy_hidden=[8]",
    "sizes.predictor_hidden=[8]",
    "representation.codes=2",
    "output.logger=none",
    "output.progress=false",
    "device=cpu",
]


def manifest(names=("mass", "length"), test_ids=(4,), env="laboratory/arm-v3", **fields):
    tasks = {
        "parameters": [[float(task)] * len(names) for task in range(5)],
        "parameter_names": list(names),
        "train_ids": [task for task in range(5) if task not in test_ids],
        "test_ids": list(test_ids),
    }
    return DatasetManifest(env=env, preset="mine", horizon=7, tasks=tasks, **fields)


def save(folder, manifest, task_ids=(0, 1, 2, 3, 4)):
    rows = random_transitions(len(task_ids), 7, observation_dim=3, action_dim=1)
    rows["task_id"] = torch.tensor(task_ids)[rows["task_id"]]
    return TaskDataset.from_tensordict(rows, manifest).save(folder / "data")


@pytest.mark.parametrize("test_ids", [(4,), ()])
def test_it_trains_and_writes_all_but_returns(test_ids, tmp_path):
    path = save(tmp_path, manifest(test_ids=test_ids, discount=0.5))
    summary = run([*TINY, f"dataset.path={path}", f"run_dir={tmp_path / 'run'}"])
    assert summary["env"] == "laboratory/arm-v3" and summary["updates"] == 8
    assert summary["returns"] == {"test": {}, "train": {}}
    assert summary["reference"]["random"] is None and summary["reference"]["optimum"] is None
    assert summary["dataset"]["tasks"] == "mine" and summary["codebook"]["perplexity"] >= 1
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert (tmp_path / "run" / "checkpoints" / "last.pt").is_file()
    assert {path.stem for path in (tmp_path / "run" / "figures").iterdir()} == {
        "code_distances",
        "data",
        "learning",
        "learning_all",
    }
    names = {name for _, name, _ in metric_rows(tmp_path / "run")}
    assert "loss/loss_prediction" in names and not any(name.startswith("eval/") for name in names)
    lines = format_summary_table(summary).splitlines()
    assert lines[0].startswith("laboratory/arm-v3 | ctmrl") and not any("Return on" in line for line in lines)


def test_sizes_keys_and_discount_come_from_the_data(tmp_path):
    path = save(tmp_path, manifest(discount=0.5))
    config = compose_config([*TINY, f"dataset.path={path}", f"run_dir={tmp_path / 'run'}"])
    assert config.evaluation.protocols == []
    experiment = build_experiment(config)
    problem = experiment.parts.parts[0].loss, experiment.task_set.family
    family = problem[1]
    assert (family.observation_dim, family.action_dim, family.horizon, family.discount) == (3, 1, 7, 0.5)
    assert family.return_key == ("next", "reward") and family.context_next_observation
    assert family.parameter_names == ("mass", "length") and experiment.task_set.test_ids == (4,)
    batch = experiment.trainer.next_batch()
    assert batch["context", "next", "observation"].shape[-1] == 3  # tasks may differ in their dynamics
    assert experiment.loss.policy.gamma == 0.5


def test_a_long_name_of_an_environment_is_cut(tmp_path):
    dataset = TaskDataset.load(save(tmp_path / "data", manifest(env="laboratory/" + "x" * 5000)))
    assert tasks_of_dataset(dataset).name == "laboratory-" + "x" * 89


def test_nothing_can_be_played(tmp_path):
    path = save(tmp_path, manifest())
    where = [f"dataset.path={path}", f"run_dir={tmp_path / 'run'}"]
    with pytest.raises(ConfigError, match=r"evaluation.protocols: .*allowed is \[\] with env=dataset"):
        run([*TINY, *where, "evaluation.protocols=[np]"])
    with pytest.raises(ConfigError, match=r"dataset.path: got None, allowed is the folder of a dataset"):
        run([*TINY, where[1]])
    assert not (tmp_path / "run").exists()
    dataset, task_set = obtain_data(compose_config([*TINY, *where]).dataset, "dataset", "repo")
    with pytest.raises(ValueError, match="data but no environment.*register_family"):
        task_set.family.env_builder(task_set, [0], None)


def test_what_depends_on_the_number_of_tasks_is_checked_once_the_data_are_known(tmp_path):
    where = [f"dataset.path={save(tmp_path, manifest())}", f"run_dir={tmp_path / 'run'}"]
    for change, message in (
        ("batch.tasks=5", "at most 4, the number of training tasks of the dataset"),
        ("representation.codes=5", r"at most 4, the contexts that K-means gets in one epoch"),
    ):
        with pytest.raises(ConfigError, match=message):
            run([*TINY, *where, change])
    assert not (tmp_path / "run").exists()


def test_one_training_task_is_refused_where_tasks_are_contrasted_and_told_elsewhere(tmp_path, monkeypatch):
    path, told = save(tmp_path, manifest(test_ids=(1, 2, 3, 4), discount=0.5)), []
    monkeypatch.setattr("ctmrl_torchrl.training.build.torchrl_logger.warning", told.append)
    where = [*TINY, f"dataset.path={path}", f"run_dir={tmp_path / 'run'}", "batch.repeat_tasks=true"]
    for method in ("ctmrl", "ctmrl_released"):
        with pytest.raises(ConfigError, match="representation.contrastive_weight: got .* one training task"):
            run([*where, f"method={method}", "representation.codes=1"])
    assert not (tmp_path / "run").exists() and not told
    fine = ["representation.codes=1", "representation.contrastive_weight=0"]
    build_experiment(compose_config([*where, *fine]))
    assert "one training task" in told[0]


def test_data_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DatasetError, match="nowhere"):
        run([*TINY, f"dataset.path={tmp_path / 'nowhere'}", f"run_dir={tmp_path / 'run'}"])


def test_tasks_without_parameters_are_told_apart_by_their_number():
    rows = random_transitions(5, 7, observation_dim=3, action_dim=1)
    dataset = TaskDataset.from_tensordict(rows, manifest(names=()))
    tasks = tasks_of_dataset(dataset)
    assert tasks.parameter_names == ("task",) and tasks.parameters.flatten().tolist() == [0, 1, 2, 3, 4]


def test_data_of_a_registered_family_keep_what_is_known_of_it():
    sparse = tasks_of_dataset(random_dataset(make_task_set("sparse_point_robot")))
    assert sparse.family is make_task_set("sparse_point_robot").family
    assert sparse.train_ids == make_task_set("sparse_point_robot").train_ids
    # not if they are of another size, or of other parameters, or have nothing to test on
    rows = random_transitions(5, 7, observation_dim=3, action_dim=1)
    for changes in ({}, {"names": ("goal_x", "goal_y")}, {"test_ids": ()}):
        named = manifest(env="point_robot", **changes)
        family = tasks_of_dataset(TaskDataset.from_tensordict(rows, named)).family
        assert (family.name, family.simulator, family.observation_dim) == ("point_robot", "none", 3)


def test_the_oracle_needs_no_environment_to_be_trained(tmp_path):
    where = [f"dataset.path={save(tmp_path, manifest())}", f"run_dir={tmp_path / 'run'}"]
    tiny = [item for item in TINY if not item.startswith("representation")]
    summary = run([*tiny, *where, "method=oracle", "evaluation.protocols=[]", "schedule.policy_start=0"])
    assert summary["method"] == "oracle" and summary["returns"]["test"] == {}
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["state"]["loss"]
    assert state["context_encoder.table"].shape == (5, 2)


def test_data_without_training_tasks_are_refused_plainly(tmp_path):
    path = save(tmp_path, manifest(test_ids=(0, 1, 2, 3, 4)))
    with pytest.raises(DatasetError, match=r"data: its tasks cannot be used: train_ids .* is empty"):
        run([*TINY, f"dataset.path={path}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


def test_training_tasks_without_data_are_named(tmp_path):
    path = save(tmp_path, manifest(), task_ids=(0, 2, 4))
    with pytest.raises(DatasetError, match=r"data has no data of the training tasks \[1, 3\]; add"):
        run([*TINY, f"dataset.path={path}", f"run_dir={tmp_path / 'run'}"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("oracle", [{"train": 1.0}, {"train": 1.0, "test": None}, {"test": 2.0}])
def test_a_behaviour_of_one_split_is_reported(oracle, tmp_path):
    dataset = TaskDataset.load(save(tmp_path, manifest(oracle=oracle)))
    report = data_report(dataset)
    assert report["reference"]["train"]["behaviour"] == oracle.get("train")
    last = format_data_table(report).splitlines()[-1].split()
    assert last == ["behavior", *(f"{oracle[x]:.2f}" if oracle.get(x) else "-" for x in ("train", "test"))]


def test_a_report_of_data_of_some_tasks():
    """Five of nine tasks have data; their return is their mass, and the first stage knows two of them."""
    rows = random_transitions(5, 7, snapshots=2)
    rows = rows[(rows["snapshot_id"] == 1) | (rows["task_id"] < 2)]
    rows["trajectory_id"] = rows["trajectory_id"].unique_consecutive(return_inverse=True)[1]
    rows["task_id"] = torch.tensor([0, 3, 4, 7, 8])[rows["task_id"]]
    mass = torch.tensor([5.0, 9.0, 9.0, 2.0, 7.0, 9.0, 9.0, 3.0, 1.0])
    rows["next", "reward"] = mass[rows["task_id"], None]
    tasks = {"parameters": mass[:, None].tolist(), "parameter_names": ["mass"]}
    tasks |= {"train_ids": [0, 3, 4, 7, 8], "test_ids": [1, 2, 5, 6]}
    described = DatasetManifest(env="arm", preset="mine", horizon=7, tasks=tasks)
    report = data_report(TaskDataset.from_tensordict(rows, described))
    assert report["parameters_behind_returns"] == pytest.approx({"mass": 1.0})
    assert report["snapshots"][0]["per_task"] == [35.0, 14.0, None, None, None]


def test_the_proposed_folder_is_named_after_the_data(tmp_path):
    def proposed(*overrides):
        return compose_config(["preset=smoke", *overrides]).run_dir

    assert proposed("env=dataset", f"dataset.path={tmp_path}/first") == (
        "runs/dataset-first/ctmrl-brac_sac-smoke-seed0"
    )
    named = proposed("env=dataset", f"dataset.path='{tmp_path}/my data/'", "comparison=own", "method=focal")
    assert named == "runs/dataset-my-data/focal-own-smoke-seed0"
    assert proposed("dataset.path=somewhere") == "runs/point_robot-repo/ctmrl-brac_sac-smoke-seed0"


def test_a_folder_with_a_run_on_other_data_says_so(tmp_path):
    first = save(tmp_path, manifest(discount=0.5))
    second = TaskDataset.load(first).save(tmp_path / "second")
    common = [*TINY, f"run_dir={tmp_path / 'run'}", "output.figures=false"]
    run([*common, f"dataset.path={first}"])
    with pytest.raises(
        ConfigError, match=r"holds a run on other data \(.*data; this run: .*second\).*another"
    ) as told:
        run([*common, f"dataset.path={second}"])
    assert "resume=" not in str(told.value)
    with pytest.raises(ConfigError, match="already holds a run .*resume="):
        run([*common, f"dataset.path={first}"])
    with pytest.raises(
        ConfigError, match=r"other data \(.*data; this run: env=point_robot tasks=repo, .*datasets"
    ):
        run(["env=point_robot", "preset=smoke", "device=cpu", f"run_dir={tmp_path / 'run'}"])
