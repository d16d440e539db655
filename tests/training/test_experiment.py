from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from sameness import assert_same
from tensordict import TensorDict
from tiny_experiments import metric_rows, tiny_config

from ctmrl_torchrl.agents import Agent
from ctmrl_torchrl.data import DatasetError, TaskDataset, get_recipe, register_recipe
from ctmrl_torchrl.data.behaviour import unregister_recipe
from ctmrl_torchrl.envs import make_env, make_task_set
from ctmrl_torchrl.evaluation.summary import load_summary
from ctmrl_torchrl.methods import FOCALConfig, ReleasedConfig
from ctmrl_torchrl.registry import UnknownChoiceError
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training import data as data_module
from ctmrl_torchrl.training import experiment as experiment_module
from ctmrl_torchrl.training.checkpoint import CheckpointError, load_checkpoint
from ctmrl_torchrl.training.config import ContextConfig
from ctmrl_torchrl.training.data import check_dataset, obtain_data
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment, run_seeds
from ctmrl_torchrl.training.tester import MetaTester, protocol_result
from ctmrl_torchrl.training.trainer import MetaTrainer

ALL = ["offline", "online", "np", "codes"]


def dataset_of(config):
    return obtain_data(config.dataset, config.env, config.tasks)[0]


@pytest.fixture(scope="module")
def run(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "deep" / "run"
    changes = {
        "evaluation.protocols": ALL,
        "evaluation.final_repeats": 2,
        "output.figures": True,
        "output.logger": "tensorboard",
    }
    config = tiny_config(dataset_root, run_dir, changes)
    return config, run_experiment(config), run_dir


def test_summary(run):
    config, summary, run_dir = run
    assert_same(load_summary(run_dir / "summary.json"), summary)
    assert summary["env"] == "point_robot" and summary["updates"] == 20 and summary["seed"] == 0
    for split, tasks in (("test", 10), ("train", 30)):
        assert list(summary["returns"][split]) == ALL
        for result in summary["returns"][split].values():
            assert len(result["per_episode"]) == 3 and len(result["per_task"]) == tasks
            assert result["mean"] == pytest.approx(result["per_episode"][-1], abs=1e-4)
            assert result["ci95"][0] <= result["mean"] <= result["ci95"][1]
            assert result["context_noise"] >= 0
    assert summary["reference"]["optimum"] == pytest.approx(-3.855, abs=1e-2)
    assert 1 <= summary["codebook"]["perplexity"] <= 2
    assert summary["dataset"]["recipe"] == "smoke" and summary["dataset"]["seed"] == 0
    assert summary["dataset"]["counts"]["tasks"] == 40
    assert summary["versions"]["device"] == "cpu"


def test_the_released_objective_trains_every_network_of_its_own(dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path, representation=ReleasedConfig(codes=2, predictor_hidden=[8]))
    config.context = ContextConfig(kind="transitions", length=12)
    trainer = build_experiment(config).trainer
    before = {name: value.clone() for name, value in trainer.loss.state_dict().items()}
    summary = run_experiment(config)
    trainer.resume(tmp_path)
    after = trainer.loss.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    parts = ("codebook", "predictors.reward_predictor", "behaviour_posterior")
    for part in ("context_encoder", *(f"representation.{name}" for name in parts)):
        assert any(name.startswith(part) for name in moved), part
    assert not any("next_observation_predictor" in name for name in before)
    assert "representation.bilinear" not in moved
    assert all(math.isfinite(result["mean"]) for result in summary["returns"]["test"].values())


@pytest.mark.ci
@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("protocols", "mapped"), [(["none"], False), (["none", "offline"], True)])
def test_a_map_needs_contexts_that_differ(protocols, mapped, run, dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path)
    config.output.figures, config.resume, config.evaluation.protocols = True, str(run[2]), protocols
    run_experiment(config)
    assert (tmp_path / "figures" / "adaptation.png").is_file()
    assert (tmp_path / "figures" / "context_map.png").is_file() == mapped


def test_files(run):
    config, _, run_dir = run
    saved = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert saved["schedule"]["updates"] == 20 and saved["policy_loss"]["name"] == "brac_sac"
    for name in ("adaptation", "learning", "context_map", "trajectories"):
        with Image.open(run_dir / "figures" / f"{name}.png") as picture:
            assert min(picture.size) > 200
    assert load_checkpoint(run_dir / "checkpoints" / "last.pt", {"env": "point_robot"})["update"] == 20
    assert list((run_dir / f"log-{run_dir.name}").glob("events*"))
    rows = metric_rows(run_dir)
    names = {name for _, name, _ in rows}
    for split in ("test", "train"):
        assert {f"eval/{split}/{protocol}/return" for protocol in ALL} <= names
    assert {"loss/loss_prediction", "codebook/perplexity"} <= names
    assert all(math.isfinite(float(value)) for _, _, value in rows)
    assert len({(step, name) for step, name, _ in rows}) == len(rows)


def test_figures_without_periodic_meta_tests(dataset_root, tmp_path):
    changes = {"evaluation.every": 0, "output.figures": True, "schedule.updates": 3, "output.log_every": 2}
    run_experiment(tiny_config(dataset_root, tmp_path, changes))
    assert (tmp_path / "figures" / "learning.png").exists()


def test_the_dataset_is_made_once_and_reused(dataset_root, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(data_module, "collect_task_dataset", fail)
    dataset = dataset_of(tiny_config(dataset_root, tmp_path))
    assert dataset.path.name == "point_robot-repo-smoke-seed0"
    assert dataset.manifest.recipe["name"] == "smoke"
    with pytest.raises(AssertionError, match="made again"):
        dataset_of(tiny_config(dataset_root, tmp_path, {"dataset.seed": 1}))


def test_two_runs_that_make_the_same_dataset_at_once(dataset_root, tmp_path, monkeypatch):
    def overtaken(env, *, path, **options):
        TaskDataset.load(dataset_root / "point_robot-repo-smoke-seed0").save(path)  # by another run
        raise DatasetError(f"{path}: exists already")

    monkeypatch.setattr(data_module, "collect_task_dataset", overtaken)
    dataset = dataset_of(tiny_config(tmp_path, tmp_path))
    assert dataset.path.parent == tmp_path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"env": "point_robot_wind"}, "holds data of env=point_robot, but this run has env=point_robot_wind"),
        ({"tasks": "paper"}, "preset 'repo', 40 tasks.*tasks=paper .100 tasks.*set tasks=repo"),
    ],
)
def test_a_dataset_of_something_else_is_refused(fields, message, dataset_root, tmp_path):
    path = str(dataset_root / "point_robot-repo-smoke-seed0")
    config = tiny_config(dataset_root, tmp_path / "run", {"dataset.path": path}, **fields)
    with pytest.raises(DatasetError, match=message):
        run_experiment(config)
    assert not (tmp_path / "run").exists()


def test_a_missing_or_broken_dataset_is_refused_and_left_alone(dataset_root, tmp_path):
    missing = tiny_config(dataset_root, tmp_path / "run", {"dataset.path": str(tmp_path / "nowhere")})
    with pytest.raises(DatasetError, match="nowhere"):
        run_experiment(missing)
    broken = TaskDataset.load(dataset_root / "point_robot-repo-smoke-seed0").save(tmp_path / "broken")
    file = max(broken.rglob("*.memmap"), key=lambda path: path.stat().st_size)
    file.write_bytes(file.read_bytes()[:-8])
    before = {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    with pytest.raises(DatasetError, match=file.name):
        run_experiment(tiny_config(dataset_root, tmp_path / "run", {"dataset.path": str(broken)}))
    assert before == {path: path.read_bytes() for path in broken.rglob("*") if path.is_file()}
    assert not (tmp_path / "run").exists()


def test_one_number_changed_on_disk_is_noticed_before_training(dataset_root, tmp_path):
    path = TaskDataset.load(dataset_root / "point_robot-repo-smoke-seed0").save(tmp_path / "changed")
    file = path / "transitions" / "next" / "reward.memmap"
    content = bytearray(file.read_bytes())
    content[:4] = torch.tensor(-0.5).numpy().tobytes()
    file.write_bytes(content)
    config = tiny_config(dataset_root, tmp_path / "run", {"dataset.path": str(path)})
    with pytest.raises(DatasetError, match=r"reward\.memmap was changed after it was saved"):
        run_experiment(config)
    assert not (tmp_path / "run").exists()
    config.dataset.verify = "quick"
    assert dataset_of(config).path == path


def test_a_dataset_of_another_split_is_refused(dataset_root):
    dataset = TaskDataset.load(dataset_root / "point_robot-repo-smoke-seed0")
    first, *others = dataset.manifest.train_ids
    tasks = {**dataset.manifest.tasks, "train_ids": others, "test_ids": [*dataset.manifest.test_ids, first]}
    dataset.manifest = dataset.manifest.replace(tasks=tasks)
    with pytest.raises(DatasetError, match="another split than this run's tasks=repo: its train_ids are"):
        check_dataset(dataset, make_task_set("point_robot"))


def test_a_dataset_without_the_reported_reward_is_refused(dataset_root):
    dataset = TaskDataset.load(dataset_root / "point_robot-repo-smoke-seed0")
    task_set = make_task_set("point_robot")
    check_dataset(dataset, task_set)
    dataset.transitions = dataset.transitions.exclude(("next", "reward"))
    with pytest.raises(DatasetError, match="needs .'next', 'reward'. with 1 feature.*does not have it"):
        check_dataset(dataset, task_set)


@pytest.fixture
def tester(dataset_root, tmp_path):
    return build_experiment(tiny_config(dataset_root, tmp_path, {"evaluation.protocols": ["offline"]})).tester


def test_offline_contexts_are_of_the_rows_own_task(tester):
    rows = torch.tensor([3, 3, 17, 39])
    episode = tester._draw_offline(rows, torch.Generator().manual_seed(0))
    assert episode.batch_size == (4, 20) and episode["mask"].all()
    goals = tester.task_set.parameters[rows].float()[:, None]
    distance = (episode["next", "observation"] - goals).norm(dim=-1, keepdim=True)
    torch.testing.assert_close(episode["next", "reward"], -distance)
    assert torch.equal(
        episode["observation"][:, 1:], episode["next", "observation"][:, :-1]
    )  # whole episodes
    assert not episode["observation"][:, 0].any()
    assert not torch.equal(episode["action"][0], episode["action"][1])


def test_offline_needs_data_of_every_task(tester, dataset_root):
    dataset = TaskDataset.load(dataset_root / "point_robot-repo-smoke-seed0")
    kept = dataset.transitions[dataset.transitions["task_id"] != 39].to_tensordict()
    fewer = TaskDataset.from_tensordict(kept, dataset.manifest)
    parts = {
        "context_dim": 4,
        "candidates": tester.candidates,
        "config": tester.config,
        "device": torch.device("cpu"),
    }
    with pytest.raises(ConfigError, match=r"evaluation.protocols.*no data of the tasks \[39\]"):
        MetaTester(tester.task_set, fewer, tester.actor, tester.context_encoder, **parts)


def test_protocol_result_is_means_over_the_right_axes(tester):
    run = tester.run([4, 9], repeats=2, seed=0)["offline"]
    run["returns"] = torch.tensor([[[0.0, 1.0, 2.0], [0.0, 3.0, 4.0]], [[0.0, 5.0, 6.0], [0.0, 7.0, 12.0]]])
    result = protocol_result(run, random_episodes=2)
    assert result["per_task"] == {4: 3.0, 9: 9.0}
    assert result["mean"] == 6.0 and result["per_episode"] == [0.0, 4.0, 6.0]
    assert result["after"] == {"1": 4.0, "2": 6.0}
    # of two tasks, resampled, all may be the worse or the better one: means over repeats, not single episodes
    assert result["ci95"] == [3.0, 9.0]
    assert result["per_episode_ci95"] == [[0.0, 0.0], [2.0, 6.0], [3.0, 9.0]]
    # two episodes of the task's own data were drawn; nothing was played for them
    assert result["cost"]["episodes"] == 2.0 and result["cost"]["oracle_answers"] == 0.0


def test_an_unknown_protocol_names_the_nearest(tester):
    tester.config.protocols = ["np", "onlin"]
    with pytest.raises(UnknownChoiceError, match="adaptation protocol 'onlin'. Did you mean 'online'?"):
        tester.protocols()


def test_candidates_are_the_methods_own_or_centers_of_training_contexts(dataset_root, tmp_path):
    own = build_experiment(tiny_config(dataset_root, tmp_path))
    assert torch.equal(own.tester.candidates(), own.loss.representation.codebook.codes)
    changes = {"evaluation.candidates": 2, "evaluation.episodes": 4, "batch.repeat_tasks": True}
    config = tiny_config(dataset_root, tmp_path, changes, representation=FOCALConfig())
    experiment = build_experiment(config)
    sampling = experiment.trainer.buffer.state_dict()
    centers = experiment.tester.candidates()
    assert centers.shape == (2, 4) and not torch.equal(centers[0], centers[1])
    # a meta-test depends on the agent alone, and leaves the training's draws as they were
    assert torch.equal(experiment.tester.candidates(), centers)
    assert_same(experiment.trainer.buffer.state_dict(), sampling)
    returns = experiment.tester.run([2, 6], 1, 0)["codes"]["returns"]
    assert returns.shape == (2, 1, 4) and returns.isfinite().all()


def test_a_cached_dataset_of_another_recipe_is_refused_and_kept(dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path / "run")
    name, env = config.dataset.recipe, config.env
    dataset_of(config)  # as it is
    changed = dataclasses.replace(get_recipe(name, env), batch_size=17)
    register_recipe(name, changed, family=env)  # a family's own recipe wins over its simulator's
    try:
        with pytest.raises(
            DatasetError, match=r"another version of the recipe .*batch_size.*move that folder away"
        ):
            dataset_of(config)
    finally:
        unregister_recipe(name, family=env)
    dataset_of(config)


def test_a_finished_run_is_not_overwritten_unasked(run):
    config, _, run_dir = run
    before = {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()}
    with pytest.raises(
        ConfigError, match=r"run_dir: .* already holds a run \(summary.json, .*overwrite=true"
    ):
        run_experiment(config)
    assert {file: file.read_bytes() for file in run_dir.rglob("*") if file.is_file()} == before


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_run_that_is_overwritten_is_kept_until_its_successor_has_finished(
    dataset_root, tmp_path, monkeypatch
):
    config = tiny_config(dataset_root, tmp_path / "run", {"overwrite": True})
    run_experiment(config)
    before = contents(tmp_path / "run")
    del before[Path(".ctmrl-run.json")]
    successor = dataclasses.replace(config, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "train", lambda trainer: trainer.save() and None)
        patch.setattr(experiment_module, "conclude", lambda *args: pytest.fail("interrupted"))
        for _ in range(2):  # what an attempt leaves is not what the next one keeps
            with pytest.raises(pytest.fail.Exception, match="interrupted"):
                run_experiment(successor)
            assert contents(tmp_path / "run" / "replaced-run") == before
            assert not (tmp_path / "run" / "summary.json").exists()
    assert run_experiment(successor)["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert contents(tmp_path / "run").keys() == before.keys() | {Path(".ctmrl-run.json")}


def test_a_resumed_run_without_its_data_is_refused_before_others_are_made(run, tmp_path):
    config, _, run_dir = run
    changes = {"dataset.root": str(tmp_path / "data"), "resume": str(run_dir)}
    with pytest.raises(ConfigError, match=r"resume: the run .* needs its data, but there is no .*data"):
        run_experiment(tiny_config(tmp_path / "data", run_dir, changes, seed=config.seed))
    assert not list(tmp_path.iterdir())


def test_no_seed_is_begun_if_one_of_them_is_refused(run, dataset_root, tmp_path):
    _, _, run_dir = run
    configs = [
        tiny_config(dataset_root, place, seed=seed) for seed, place in enumerate((tmp_path / "0", run_dir))
    ]
    with pytest.raises(ConfigError, match="already holds a run"):
        run_seeds(configs)
    assert not list(tmp_path.iterdir())


def test_going_on_from_one_run_does_not_replace_another(run, tmp_path):
    config, _, run_dir = run
    other = tmp_path / "other"
    other.mkdir()
    (other / "summary.json").write_text("kept", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run_dir: .*other already holds a run"):
        run_experiment(dataclasses.replace(config, run_dir=str(other), resume=str(run_dir)))
    assert (other / "summary.json").read_text(encoding="utf-8") == "kept"


def test_a_run_of_other_settings_is_not_resumed_and_no_data_are_made(run, tmp_path):
    config, _, run_dir = run
    changes = {"schedule.updates": config.schedule.updates + 1, "resume": str(run_dir)}
    other = tiny_config(tmp_path / "data", tmp_path / "run", changes)
    with pytest.raises(CheckpointError, match=r"written with schedule.updates=20, but this run has .*=21"):
        run_experiment(other)
    assert not list(tmp_path.iterdir())


def test_contexts_that_all_coincide_give_no_noise_ratio(run):
    episodes = TensorDict(
        {
            "returns": torch.zeros(3, 2, 4),
            "task_context": torch.ones(3, 2, 4, 5),
            "task_id": torch.arange(3)[:, None].expand(3, 2),
            "episodes": torch.arange(4).expand(3, 2, 4),
            "env_steps": 20 * torch.arange(4).expand(3, 2, 4),
            "total_env_steps": 120 * torch.arange(4).expand(3, 2, 4),
            "oracle_answers": torch.zeros(3, 2, 4, dtype=torch.int64),
        },
        [3, 2],
    )
    result = protocol_result(episodes, random_episodes=2)
    assert result["context_noise"] is None
    cost = {"episodes": 3.0, "env_steps": 60.0, "total_env_steps": 360.0, "oracle_answers": 0.0}
    assert result["cost"] == cost


def test_the_saved_agent_adapts_as_the_run_did(dataset_root, tmp_path):
    changes = {"evaluation.protocols": ["np", "codes"]}
    config = tiny_config(dataset_root, tmp_path / "run", changes)
    summary = run_experiment(config)
    agent = Agent.load(tmp_path / "run")
    tasks = torch.tensor(make_task_set("point_robot").test_ids)
    for protocol in ("np", "codes"):
        adapted = agent.adapt(make_env("point_robot", tasks), protocol, seed=config.evaluation.seed)
        expected = list(summary["returns"]["test"][protocol]["per_task"].values())
        assert adapted.returns[:, -1].tolist() == pytest.approx(expected, rel=1e-6)
    assert agent.card.returns["test"]["np"] == summary["returns"]["test"]["np"]["mean"]
