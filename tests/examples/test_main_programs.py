"""The programs that collect, train and measure the oracle, as they are started from a shell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from programs import EXAMPLES, SHORT, SMOKE

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.evaluation import load_summary
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.compose import choices

pytestmark = pytest.mark.ci


def test_collecting_a_dataset_reports_it(program, data):
    arguments = ["env=half_cheetah_vel", "dataset=smoke", f"dataset.root={data}", "output.progress=false"]
    for _ in range(2):  # the second time it is there already, and only reported
        text = program("collect_dataset", *arguments)
        assert "half_cheetah_vel (repo): 40 tasks, 240 trajectories, 48,000 transitions" in text
    folder = data / "half_cheetah_vel-repo-smoke-seed0"
    report = json.loads((folder / "report.json").read_text())
    assert report["command"] == "python examples/collect_dataset.py env=half_cheetah_vel dataset=smoke"
    behaviour = TaskDataset.load(folder, verify="full").manifest.oracle["test"]
    assert report["reference"]["behaviour"] == behaviour
    assert (folder / "returns.png").exists()


def test_the_main_program_prints_its_table_and_records_its_command(program, data, tmp_path):
    place = [f"dataset.root={data}", f"run_dir={tmp_path}/run"]
    text = program("train_ctmrl", *SMOKE, *SHORT, *place, "method=focal")
    assert "point_robot | focal + brac_sac | preset smoke | seed 0 | 6 updates" in text
    assert "Return on unseen test tasks" in text
    summary = load_summary(tmp_path / "run" / "summary.json")
    assert summary["command"] == (
        "python examples/train_ctmrl.py preset=smoke schedule.updates=6 evaluation.every=0 "
        "evaluation.final_repeats=1 evaluation.episodes=3 evaluation.random_episodes=2 "
        "'evaluation.protocols=[np]' method=focal"
    )
    written = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"checkpoints", "config.yaml", "figures", "metrics.csv", "summary.json"} <= written
    assert list(Path.cwd().iterdir()) == []  # nothing is left where it was started


def test_a_mujoco_family_is_trained_and_shown_small(data, tmp_path):
    """In a process of its own, as it is started from a shell."""
    settings = ["env=half_cheetah_vel", "preset=smoke", f"dataset.root={data}", f"run_dir={tmp_path}/run"]
    small = ["schedule.updates=20", "evaluation.every=0", "evaluation.final_repeats=1"]
    protocols = ["evaluation.episodes=3", "evaluation.protocols=[np]"]
    command = [sys.executable, str(EXAMPLES / "train_ctmrl.py"), *settings, *small, *protocols]
    done = subprocess.run([*command, "output.progress=false"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "behavior" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["reference"]["behaviour"] < 0 and summary["reference"]["optimum"] is None
    figures = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"adaptation", "context_map", "data", "learning", "speed"} <= figures


def test_several_seeds_in_one_process_have_a_folder_each(program, data, tmp_path):
    place = [f"dataset.root={data}", f"run_dir={tmp_path}/run-${{seed}}", "output.figures=false"]
    text = program("train_ctmrl", *SMOKE, *SHORT, *place, "seeds=[0,1]")
    assert text.count("Return on unseen test tasks") == 2
    for seed in (0, 1):
        summary = load_summary(tmp_path / f"run-{seed}" / "summary.json")
        assert summary["seed"] == seed and "seeds=[0,1]" in summary["command"]


def test_a_sweep_makes_one_run_after_the_other(program, data, tmp_path):
    place = [f"dataset.root={data}", f"run_dir={tmp_path}/run-${{seed}}", "output.figures=false"]
    text = program("train_ctmrl", "-m", *SMOKE, *SHORT, *place, "seed=0,1")
    assert text.count("Return on unseen test tasks") == 2
    commands = [load_summary(tmp_path / f"run-{seed}" / "summary.json")["command"] for seed in (0, 1)]
    assert ["seed=0" in commands[0], "seed=1" in commands[1]] == [True, True]


def test_the_configuration_and_the_choices_can_be_shown(program, capsys):
    shown = program("train_ctmrl", "--cfg", "job", "preset=smoke")
    assert "preset: smoke" in shown and "kmeans_epochs: 100" in shown
    with pytest.raises(SystemExit) as left:
        program("train_ctmrl", "--help")
    assert left.value.code in (None, 0)
    text = capsys.readouterr().out
    for group in ("env", "method", "policy_loss", "preset", "dataset"):
        line = next(line for line in text.splitlines() if line.startswith(f"{group}: "))
        assert set(choices(group)) == set(line.removeprefix(f"{group}: ").split(", "))
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("train_ctmrl", ["batch.tasks=0"], "config field batch.tasks: got 0, allowed is a whole number"),
        (
            "train_ctmrl",
            ["presset=smoke"],
            "config field presset: there is no such field. Did you mean preset",
        ),
        ("train_ctmrl", ["-m", "seed=0,1", "run_dir=same"], "the jobs of this sweep that differ in seed"),
        ("train_ctmrl", ["-m", "batch.tasks=0,1"], "would share the folder"),
        (
            "train_ctmrl",
            ["seeds=[0,0]"],
            "config field seeds: got [0, 0], allowed is a list of different seeds",
        ),
        ("train_ctmrl", ["resume=nowhere"], "resume=nowhere does not lead to a checkpoint"),
        ("train_oracle", ["env=point_robt"], "there is no such choice. Did you mean 'point_robot'?"),
        (
            "collect_dataset",
            ["dataset.recipe=smll"],
            "config field dataset.recipe: got 'smll', allowed is one of",
        ),
    ],
)
def test_what_is_refused_is_told_in_two_lines(name, arguments, message, program, capsys):
    with pytest.raises(SystemExit) as left:
        program(name, *arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert left.value.code == 2 and len(lines) == 2 and message in lines[0]
    assert lines[1] == "HYDRA_FULL_ERROR=1 shows where this comes from."
    assert list(Path.cwd().iterdir()) == []


def test_the_traceback_is_there_for_who_wants_it(program, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ConfigError, match="config field batch.tasks: got 0"):
        program("train_ctmrl", "batch.tasks=0")


def test_the_oracle_writes_its_numbers(program, data, tmp_path):
    place = [f"dataset.root={data}", f"run_dir={tmp_path}/run", "seed=2", "output.figures=false"]
    text = program("train_oracle", "method=ctmrl_deep", *SMOKE, *place)  # which plays no part
    summary = load_summary(tmp_path / "run" / "summary.json")
    written = (tmp_path / "run" / "oracle.json").read_text(encoding="utf-8")
    assert text.endswith(written)
    assert json.loads(written) == {
        "env": "point_robot",
        "tasks": "repo",
        "recipe": "smoke",
        "policy_loss": "brac_sac",
        "preset": "smoke",
        "seed": 2,
        "updates": 3,  # the policy begins at half of the 6
        "returns": {split: summary["returns"][split]["told"]["mean"] for split in ("test", "train")},
        "optimum": {"test": pytest.approx(-3.855, abs=1e-3), "train": pytest.approx(-3.858, abs=1e-3)},
        "command": "python examples/train_oracle.py preset=smoke schedule.updates=6 evaluation.every=0 "
        "evaluation.final_repeats=1 seed=2",
    }
    assert summary["method"] == "oracle" and summary["command"] == json.loads(written)["command"]
