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

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.evaluation import load_summary
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.commands import run as run_overrides
from ctmrl_torchrl.training.compose import choices, compose_config
from ctmrl_torchrl.training.experiment import build_experiment

pytestmark = pytest.mark.ci

EXAMPLES = Path(__file__).parents[2] / "examples"
SMOKE = [
    "preset=smoke",
    "schedule.updates=6",
    "evaluation.every=0",
    "evaluation.final_repeats=1",
    "output.logger=none",
    "output.progress=false",
]
SHORT = ["evaluation.episodes=3", "evaluation.random_episodes=2", "evaluation.protocols=[np]"]


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
    overrides = ["dataset.recipe=smoke", "evaluation.every=0", "output.progress=false", "seed=3"]
    paths = [f"dataset.root={root}/data", f"run_dir={root}/run", f"schedule.updates={updates}"]
    experiment = build_experiment(compose_config(overrides + paths))
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
    found, expected = list(loss.parameters()), list(experiment.loss.parameters())
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))  # bit for bit
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
    with pytest.raises(ValueError, match="already exists"):
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
    with pytest.raises(SystemExit, match="contains the run of another command"):
        run("collect_results", monkeypatch, tmp_path / "o.json", other, "--keep", kept)
    with pytest.raises(SystemExit, match="differ in 'representation.codes'"):
        run("collect_results", monkeypatch, tmp_path / "o.json", runs[1], other)

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
    both = "-4.50 [-5.00, -4.00]"
    assert (
        f"| Point-Robot (repo) | `ctmrl` | 2 |  | {both} | {both} | -5.50 / -5.50 / -5.50 | -5.50 |" in text
    )
    assert "| -3.95 | -3.85 | -4.81 |" in text or "| -3.95 | -3.86 | -4.81 |" in text
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="no <!-- table -->"):
        table.main()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The folder in which the programs make their data, once."""
    return tmp_path_factory.mktemp("data")


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


def test_the_control_of_protocol_codes_repeats_the_run_and_leaves_it_alone(
    data, tmp_path, monkeypatch, capsys
):
    overrides = [*SMOKE, "schedule.updates=20", "output.figures=false", "evaluation.protocols=[codes]"]
    summary = run_overrides([*overrides, f"dataset.root={data}", f"run_dir={tmp_path}/run"])
    assert "dataset.root" not in summary["command"]  # where the data are is in the run's config.yaml
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    run("codes_control", monkeypatch, tmp_path / "control.json", tmp_path / "run", "--draws", 2)
    assert "random" in capsys.readouterr().out
    control = json.loads((tmp_path / "control.json").read_text(encoding="utf-8"))
    assert control["seeds"]["0"]["codes"] == pytest.approx(summary["returns"]["test"]["codes"]["mean"])
    assert control["seeds"]["0"]["random"] != control["seeds"]["0"]["codes"]
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_what_knowing_the_task_is_worth_and_what_contexts_know(data, tmp_path, monkeypatch, capsys):
    root = f"dataset.root={data}"
    fit = ["--updates", 5, "--episodes", 1, "--width", 8, "--output", tmp_path / "told.json"]
    run("task_knowledge", monkeypatch, "preset=smoke", "output.progress=false", root, *fit)
    table = json.loads((tmp_path / "told.json").read_text())
    assert set(table["told"]) == set(table["told nothing"]) == {"train", "test"}
    folder = tmp_path / "run"
    run_overrides([*SMOKE, *SHORT, root, f"run_dir={folder}"])
    run("context_probe", monkeypatch, folder, "--repeats", 1, "--output", tmp_path / "probe.json")
    (probe,) = json.loads((tmp_path / "probe.json").read_text())
    assert probe["np"]["mean"] <= 1.0 and probe["np"]["best"][0] in {"goal_x", "goal_y"}
    assert "point_robot ctmrl seed 0" in capsys.readouterr().out
    (stored,) = data.glob("point_robot-*")
    run("context_probe", monkeypatch, folder, "--repeats", 1, "--protocol", "offline", "--data", stored)
    assert "offline    R2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="contains no agent"):
        run("context_probe", monkeypatch, tmp_path)


def test_how_noise_of_contexts_goes_with_returns(tmp_path, monkeypatch, capsys):
    """The order of five runs by hand; the sixth is of another environment, the seventh of a method left out."""
    noise, returns = [0.1, 0.2, 0.3, 0.4, 0.5], [-1.0, -3.0, -2.0, -4.0, -5.0]
    runs = [
        {
            "levels": {"env": env, "method": method},
            "returns": {"test": {"np": value, "none": 0.0}},
            "context_noise": {"train": {"np": ratio}},
        }
        for env, method, ratio, value in [
            *(("point_robot", "ctmrl", *pair) for pair in zip(noise, returns, strict=True)),
            ("half_cheetah_vel", "ctmrl", 0.0, -99.0),
            ("point_robot", "idaq", 0.0, -99.0),
        ]
    ]
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"runs": [*runs, {"levels": {"env": "point_robot", "method": "ctmrl"}}]}))
    run("noise_and_returns", monkeypatch, file, "--env", "point_robot", "--without", "idaq")
    assert capsys.readouterr().out == "np: -0.90 (5 runs)\n"  # 1 - 6 (1 + 1) / (5 * 24), with the sign turned


def test_a_parameter_at_several_levels(tmp_path, monkeypatch, capsys):
    arguments = ["hopper_rand_params", "log_geom_friction_12", "--tasks", 2, 11, "--levels", 0, 0.5]
    few = ["--steps", 1000, "--no-progress", "--output", tmp_path / "levels.json"]
    run("parameter_levels", monkeypatch, *arguments, *few)
    table = json.loads((tmp_path / "levels.json").read_text())
    assert table["levels"] == [0.0, 0.5, "own"] and table["tasks"] == [2, 11]
    assert [len(row) for row in table["returns"]] == [3, 3]
    assert "log_geom_friction_12    own: mean return" in capsys.readouterr().out
    for wrong, task, message in (
        (["hopper_rand_params", "friction"], 2, "it has log_body_mass_0"),
        (["hopper_rand_params", "log_geom_friction_12"], 40, "tasks 0 to 39, not [40]"),
        (["point_robot", "goal_x"], 2, "the behavior of point_robot is not trained by PPO"),
    ):
        with pytest.raises(SystemExit):
            run("parameter_levels", monkeypatch, *wrong, "--tasks", task, "--levels", 0)
        assert message in capsys.readouterr().err


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
