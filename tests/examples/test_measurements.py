"""The programs that measure something about runs, methods and tasks."""

from __future__ import annotations

import json

import pytest
from programs import SHORT, SMOKE

from ctmrl_torchrl import run
from ctmrl_torchrl.agents import Agent

pytestmark = pytest.mark.ci


def test_the_control_of_protocol_codes_repeats_the_run_and_leaves_it_alone(program, data, tmp_path):
    overrides = [*SMOKE, "schedule.updates=20", "output.figures=false", "evaluation.protocols=[codes]"]
    summary = run([*overrides, f"dataset.root={data}", f"run_dir={tmp_path}/run"])
    assert "dataset.root" not in summary["command"]  # where the data are is in the run's config.yaml
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "random" in program("codes_control", tmp_path / "control.json", tmp_path / "run", "--draws", 2)
    control = json.loads((tmp_path / "control.json").read_text(encoding="utf-8"))
    assert control["seeds"]["0"]["codes"] == pytest.approx(summary["returns"]["test"]["codes"]["mean"])
    assert control["seeds"]["0"]["random"] != control["seeds"]["0"]["codes"]
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_what_knowing_the_task_is_worth_and_what_contexts_know(program, data, tmp_path):
    root = f"dataset.root={data}"
    fit = ["--updates", 5, "--episodes", 1, "--width", 8, "--output", tmp_path / "told.json"]
    program("task_knowledge", "preset=smoke", "output.progress=false", root, *fit)
    table = json.loads((tmp_path / "told.json").read_text())
    assert set(table["told"]) == set(table["told nothing"]) == {"train", "test"}
    folder = tmp_path / "run"
    run([*SMOKE, *SHORT, root, f"run_dir={folder}"])
    text = program("context_probe", folder, "--repeats", 1, "--output", tmp_path / "probe.json")
    assert "point_robot ctmrl seed 0" in text
    (probe,) = json.loads((tmp_path / "probe.json").read_text())
    assert probe["np"]["mean"] <= 1.0 and probe["np"]["best"][0] in {"goal_x", "goal_y"}
    stored = data / "point_robot-repo-smoke-seed0"
    text = program("context_probe", folder, "--repeats", 1, "--protocol", "offline", "--data", stored)
    assert "offline    R2" in text
    with pytest.raises(SystemExit, match="contains no agent"):
        program("context_probe", tmp_path)


def test_how_noise_of_contexts_goes_with_returns(program, tmp_path):
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
    text = program("noise_and_returns", file, "--env", "point_robot", "--without", "idaq")
    assert text == "np: -0.90 (5 runs)\n"  # 1 - 6 (1 + 1) / (5 * 24), with the sign turned


def test_a_parameter_at_several_levels(program, tmp_path, capsys):
    arguments = ["hopper_rand_params", "log_geom_friction_12", "--tasks", 2, 11, "--levels", 0, 0.5]
    few = ["--steps", 1000, "--no-progress", "--output", tmp_path / "levels.json"]
    text = program("parameter_levels", *arguments, *few)
    assert "log_geom_friction_12    own: mean return" in text
    table = json.loads((tmp_path / "levels.json").read_text())
    assert table["levels"] == [0.0, 0.5, "own"] and table["tasks"] == [2, 11]
    assert [len(row) for row in table["returns"]] == [3, 3]
    for wrong, task, message in (
        (["hopper_rand_params", "friction"], 2, "it has log_body_mass_0"),
        (["hopper_rand_params", "log_geom_friction_12"], 40, "tasks 0 to 39, not [40]"),
        (["point_robot", "goal_x"], 2, "the behavior of point_robot is not trained by PPO"),
    ):
        with pytest.raises(SystemExit):
            program("parameter_levels", *wrong, "--tasks", task, "--levels", 0)
        assert message in capsys.readouterr().err


def test_agents_of_dense_rewards_are_scored_by_sparse_ones(program, tmp_path):
    file = tmp_path / "scores.json"
    text = program("sparse_scores", "point_robot", "point_robot", "--output", file)
    assert "np         test   sparse" in text
    (unseen, training) = json.loads(file.read_text())["rows"]
    assert (unseen["split"], training["split"]) == ("test", "train") and unseen["agents"] == 2
    assert unseen["dense"]["mean"] == pytest.approx(
        Agent.load("point_robot").card.returns["test"]["np"], abs=0.3
    )
    first, second = unseen["sparse"]["per_agent"]
    assert first == second and 9.0 < first < 13.4
    with pytest.raises(SystemExit, match="got one of sparse_point_robot"):
        program("sparse_scores", "point_robot", "sparse_point_robot")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task_knowledge", "env=point_robto"], "Did you mean 'point_robot'"),
        (
            ["parameter_levels", "nope", "mass", "--tasks", 0, "--levels", 0.0],
            "Unknown environment family 'nope'",
        ),
        (["embed_loss", "--recipe", "nope"], "nope"),
        (["noise_and_returns", "nofile.json"], "nofile.json is no results.json of a study"),
        (["codes_control", "control.json", "run", "--draws", 1], "at least 2 are needed"),
    ],
)
def test_slips_are_told_in_a_line(words, told, program, capsys):
    with pytest.raises(SystemExit, match="2"):
        program(*words)
    assert told in capsys.readouterr().err


def test_a_probe_needs_the_folder_of_a_run(program):
    with pytest.raises(SystemExit, match="point_robot: it has no summary.json"):
        program("context_probe", "point_robot")


def test_the_oracle_must_be_told_before_it_trains(program, data, tmp_path, capsys):
    overrides = [*SMOKE, f"dataset.root={data}", f"run_dir={tmp_path}/run", "evaluation.protocols=[none]"]
    with pytest.raises(SystemExit, match="2"):
        program("train_oracle", *overrides)
    assert (
        "evaluation.protocols: got ['none'], allowed is a list that contains told" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()
