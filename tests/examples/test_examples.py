"""The examples run, small; what they claim about themselves holds."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.training.config import register_configs
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    load(name).main()


def test_embedding_the_loss_in_a_loop(monkeypatch, capsys):
    run("embed_loss", monkeypatch, "--updates", 120)
    first, *_, last = (line.split() for line in capsys.readouterr().out.strip().splitlines())
    terms = [dict(zip(words[1::2], map(float, words[2::2]), strict=True)) for words in (first, last)]
    assert terms[1]["loss_prediction"] < 0.6 * terms[0]["loss_prediction"]
    assert terms[1]["loss_qvalue"] < terms[0]["loss_qvalue"]


def test_the_trainers_agent_from_a_loop(monkeypatch, capsys):
    run("embed_same_agent", monkeypatch, "--updates", 20, "--recipe", "smoke")
    assert re.search(r"np return on 10 unseen tasks: -\d+\.\d\d", capsys.readouterr().out)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The trainer's agent and the foreign loop's, 40 updates with the same settings and seed."""
    root, updates = tmp_path_factory.mktemp("twins"), 40
    register_configs()
    with initialize_config_dir(version_base="1.3", config_dir=str(EXAMPLES.parent / "configs")):
        overrides = ["dataset.recipe=smoke", "evaluation.every=0", "output.progress=false", "seed=3"]
        paths = [f"dataset.root={root}/data", f"run_dir={root}/run", f"schedule.updates={updates}"]
        config = OmegaConf.to_object(compose("config", overrides=overrides + paths))
    experiment = build_experiment(config)
    torch.manual_seed(3)
    experiment.trainer.train()

    module, dataset = load("embed_same_agent"), experiment.dataset
    torch.manual_seed(3)
    loss = module.make_loss(dataset.statistics(dataset.manifest.train_ids))
    before = {name: value.clone() for name, value in loss.named_parameters()}
    buffers = module.make_buffers(dataset, 3)
    torch.manual_seed(3)
    module.train(loss, *buffers, updates, 3)
    return experiment, module, loss, before


def test_every_part_of_the_embedded_loss_learns(twins):
    *_, loss, before = twins
    unchanged = [name for name, value in loss.named_parameters() if torch.equal(value, before[name])]
    assert [name for name in unchanged if not name.startswith("policy.target")] == []


def test_the_embedded_loss_ends_where_the_trainer_does(twins):
    experiment, module, loss, _ = twins
    expected = list(experiment.loss.parameters())
    torch.testing.assert_close(list(loss.parameters()), expected)
    test_ids = experiment.task_set.test_ids
    run = experiment.tester.run(test_ids, 8, experiment.config.evaluation.seed)["np"]
    torch.testing.assert_close(module.meta_test(loss, torch.tensor(test_ids)), run["returns"].flatten(0, 1))


def test_embedding_the_loss_in_the_trainer(monkeypatch, capsys):
    run("embed_in_trainer", monkeypatch, "--steps", 20)
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("loss_"))
    assert {"loss_prediction", "loss_contrastive", "loss_qvalue", "loss_actor"} <= set(printed)


def test_collecting_in_batched_environments(monkeypatch, capsys, tmp_path):
    run("vectorised_collection", monkeypatch, tmp_path / "walkers", "--episodes", 2, "--noises", 1.0)
    dataset = TaskDataset.load(tmp_path / "walkers", verify="full")
    assert (dataset.n_trajectories, dataset.n_transitions) == (40 * 2 * 2, 40 * 2 * 2 * 20)
    random, walk = (
        dataset.trajectory_returns()[dataset.trajectory_snapshot == i].mean().item() for i in (0, 1)
    )
    assert random == pytest.approx(-20.4, abs=1.5) and walk > -6.0
    assert "behaviour 1: mean return" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exists already"):
        run("vectorised_collection", monkeypatch, tmp_path / "walkers", "--episodes", 1)


def test_parts_on_their_own():
    module = load("use_parts")
    assert module.quantising_autoencoder() > 1.9
    batch = module.adaptive_policy_in_a_collector(frames=80)
    assert batch["task_context"].shape == (4, 20, 5)
    # one context per row, told apart by what was seen there
    assert torch.equal(batch["task_context"][:, 0], batch["task_context"][:, -1])
    assert not torch.allclose(batch["task_context"][0, 0], batch["task_context"][1, 0])


def summary(tmp_path, name, seed, value, policy_loss="brac_sac", extra=""):
    result = {
        "mean": value,
        "ci95": [value, value],
        "per_task": {"2": value},
        "per_episode": [value - 1] * 20,
    }
    protocols = dict.fromkeys(("offline", "online", "np", "np_refine", "codes"), result)
    from ctmrl_torchrl.evaluation.summary import build_summary, write_summary

    made = build_summary(
        env="point_robot",
        method="ctmrl",
        policy_loss=policy_loss,
        preset="cpu",
        seed=seed,
        updates=10,
        wall_time_s=1.0,
        dataset={"tasks": "repo", "recipe": "small", "seed": 0, "counts": {}},
        returns={"test": protocols, "train": protocols},
        random={"test": -20.0, "train": -20.0},
        optimum={"test": -3.855, "train": -3.858},
        extra={
            "command": f"python examples/train_ctmrl.py seed={seed}{extra}",
            "codebook": {"perplexity": 7.0, "dead_codes": 0},
        },
    )
    (tmp_path / name).mkdir()
    write_summary(made, tmp_path / name / "summary.json")
    return tmp_path / name


def test_from_runs_to_results_to_the_table(monkeypatch, tmp_path, capsys):
    runs = [summary(tmp_path, f"run{seed}", seed, -4.0 - seed) for seed in (0, 1)]
    output, kept = tmp_path / "results" / "point_robot-ctmrl.json", tmp_path / "results" / "runs"
    run("collect_results", monkeypatch, output, *runs, "--keep", kept)
    first = output.read_text()
    run("collect_results", monkeypatch, output, *sorted(kept.glob("*.json")))
    assert output.read_text() == first
    # another policy loss is another file; another command of the same name is refused
    run(
        "collect_results",
        monkeypatch,
        tmp_path / "i.json",
        summary(tmp_path, "iql", 0, -5.0, "iql"),
        "--keep",
        kept,
    )
    assert len(list(kept.glob("*.json"))) == 3
    other = summary(tmp_path, "other", 0, -9.0, extra=" representation.codes=2")
    with pytest.raises(SystemExit, match="holds the run of another command"):
        run("collect_results", monkeypatch, tmp_path / "o.json", other, "--keep", kept)

    oracle = {"env": "point_robot", "tasks": "repo", "policy_loss": "brac_sac", "preset": "cpu"}
    (tmp_path / "results" / "oracle").mkdir()
    file = tmp_path / "results" / "oracle" / "point_robot.json"
    file.write_text(json.dumps({**oracle, "returns": {"test": -3.95, "train": -3.96}}))
    table = load("results_table")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("before <!-- table -->old<!-- /table --> after")
    table.main()
    text = page.read_text()
    assert text.startswith("before <!-- table -->\n| environment") and text.endswith("<!-- /table --> after")
    assert (
        "| Point-Robot (repo) | `ctmrl` | 2 | -4.50 [-5.00, -4.00] | -4.50 [-5.00, -4.00] | -5.50 | -5.50 |"
        in text
    )
    assert "| -3.95 | -3.85 | -4.81 |" in text or "| -3.95 | -3.86 | -4.81 |" in text
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="no <!-- table -->"):
        table.main()


def run_program(name, *arguments):
    """In a process of its own: Hydra looks for the configuration beside the program that was started."""
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments, "output.progress=false"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_collecting_a_dataset_reports_it(tmp_path):
    arguments = ["env=half_cheetah_vel", "dataset=smoke", f"dataset.root={tmp_path}"]
    for _ in range(2):  # the second time it is there already, and only reported
        text = run_program("collect_dataset", *arguments)
        assert "half_cheetah_vel (repo): 40 tasks, 240 trajectories, 48,000 transitions" in text
    folder = tmp_path / "half_cheetah_vel-repo-smoke-seed0"
    report = json.loads((folder / "report.json").read_text())
    assert report["command"].startswith("python examples/collect_dataset.py env=half_cheetah_vel")
    assert report["reference"]["oracle"] == TaskDataset.load(folder, verify="full").manifest.oracle["test"]
    assert (folder / "returns.png").exists()


def test_a_mujoco_family_is_trained_and_shown_small(tmp_path):
    settings = ["env=half_cheetah_vel", "preset=smoke", f"dataset.root={tmp_path}", f"run_dir={tmp_path}/run"]
    small = ["schedule.updates=20", "evaluation.every=0", "evaluation.final_repeats=1"]
    protocols = ["evaluation.episodes=3", "evaluation.protocols=[np]"]
    assert "oracle" in run_program("train_ctmrl", *settings, *small, *protocols)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reference"]["oracle"] < 0 and summary["reference"]["optimum"] is None
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"adaptation", "context_map", "data", "learning", "speed"} <= figures


def test_the_control_of_protocol_codes_repeats_the_run_and_leaves_it_alone(tmp_path, monkeypatch, capsys):
    overrides = ["preset=smoke", f"dataset.root={tmp_path}/data", "evaluation.every=0"]
    register_configs()
    with initialize_config_dir(version_base="1.3", config_dir=str(EXAMPLES.parent / "configs")):
        elsewhere = [f"run_dir={tmp_path}/run", "output.progress=false", "output.figures=false"]
        config = OmegaConf.to_object(compose("config", overrides=overrides + elsewhere))
    summary = run_experiment(config, " ".join(["python examples/train_ctmrl.py", *overrides]))
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    run("codes_control", monkeypatch, tmp_path / "control.json", tmp_path / "run", "--draws", 2)
    assert "random" in capsys.readouterr().out
    control = json.loads((tmp_path / "control.json").read_text(encoding="utf-8"))
    assert control["seeds"]["0"]["codes"] == pytest.approx(summary["returns"]["test"]["codes"]["mean"])
    assert control["seeds"]["0"]["random"] != control["seeds"]["0"]["codes"]
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
