"""Pictures of a MuJoCo run, and the report on its data."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image
from tensordict import TensorDict
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.data import collect_task_dataset, get_recipe
from ctmrl_torchrl.envs import get_family, make_env, make_task_set, optimal_returns
from ctmrl_torchrl.envs.families import load_entry_point
from ctmrl_torchrl.training import robot_report
from ctmrl_torchrl.training.data_report import data_report, format_data_table, write_data_report


def played(name):
    """One random episode of two tasks, in the place of a meta-test."""
    env = make_env(name, [2, 6], seed=0)
    episode = env.rollout(30, break_when_any_done=False)
    path = torch.cat([episode["observation"][:, :1], episode["next", "observation"]], 1)
    fields = {"task_id": torch.tensor([2, 6]), "first_path": path, "last_path": path}
    fields["returns"] = episode["next", "reward"].sum(1)
    fields["first_return"] = fields["returns"][:, 0] - 1.0
    return TensorDict(fields, [2]).unsqueeze(1)


def draw(name, folder):
    """As a family's figure is drawn at the end of a run."""
    (figure,) = get_family(name).figures
    runs = {"np": played(name)}
    settings = {"protocol": "np", "means": {"np": 0.0}, "subtitle": "a run"}
    load_entry_point(figure)(make_task_set(name), runs, folder, **settings)


@pytest.mark.ci
def test_speed_and_film(tmp_path):
    draw("half_cheetah_vel", tmp_path)
    assert (tmp_path / "speed.png").exists()
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames > 5


def test_both_episodes_are_shown_at_equal_times_with_place_and_end():
    episode = played("hopper_rand_params")[0, 0]
    episode["first_path"] = torch.cat(
        [episode["first_path"][:11], episode["first_path"][10:11].expand(20, -1)]
    )
    rows, captions = robot_report._moments(make_task_set("hopper_rand_params"), episode, 4, (80, 60))
    assert [frames.shape for frames in rows] == [(4, 60, 80, 3)] * 2
    assert captions[0][2:] == ["ended at 0.2 s"] * 2 and captions[1][3].startswith("0.5 s at ")
    assert rows[0][3].min() >= 170 and (rows[0][3] == rows[0][2]).all()


def test_the_film_of_a_goal_says_how_far_it_is():
    tasks = make_task_set("ant_goal")
    goal = tasks.parameters[6]
    at_the_goal = torch.cat([goal, torch.zeros(13)]).numpy()[None]
    assert robot_report._places(tasks, 6, at_the_goal) == [", 0.0 m to go"]
    assert robot_report._places(tasks, 6, 0 * at_the_goal) == [f", {goal.norm():.1f} m to go"]


def test_no_film_without_a_way_to_draw_but_a_warning(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise robot_report.RenderingUnavailableError("install libegl1")

    warnings = []
    monkeypatch.setattr(robot_report, "render_robot", refuse)
    monkeypatch.setattr(torchrl_logger, "warning", warnings.append)
    name = "hopper_rand_params"
    draw(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert warnings == ["no film of the robot: install libegl1"]


def test_an_episode_that_ended_early_is_shown_to_its_end():
    path = torch.arange(5.0).unsqueeze(-1).expand(5, 3)
    assert robot_report._last_step(torch.cat([path, path[-1:].expand(4, 3)])) == 4
    assert robot_report._last_step(path[:1].expand(4, 3)) == 0


@pytest.fixture(scope="module")
def cheetah_data():
    tasks = make_task_set("half_cheetah_vel", num_train=3, num_test=1)
    return collect_task_dataset("half_cheetah_vel", task_set=tasks, recipe=get_recipe("smoke", tasks.name))


def test_the_report_names_the_behavior_where_no_optimum_is_known(cheetah_data, tmp_path):
    report = write_data_report(cheetah_data, tmp_path, "python examples/collect_dataset.py")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "returns.png").exists()
    assert report["reference"]["behaviour"] == cheetah_data.manifest.oracle["test"]
    assert report["reference"]["optimum"] is None
    assert len(report["snapshots"]) == 3 and len(report["snapshots"][0]["per_task"]) == 4
    bytes_per_transition = 4 * (20 + 6 + 20 + 1) + 3 + 3 * 8
    assert report["megabytes"] == round(cheetah_data.n_transitions * bytes_per_transition / 1e6, 1)


def test_the_table_has_a_row_per_stage_and_the_references(cheetah_data):
    lines = format_data_table(data_report(cheetah_data)).splitlines()
    assert lines[0].startswith("half_cheetah_vel (3+1): 4 tasks, 24 trajectories, 4,800 transitions")
    assert [line.split()[0] for line in lines[3:]] == ["0", "2", "8", "behavior"]
    assert len({len(line) for line in lines[2:6]}) == 1


def test_the_table_names_the_parameters_behind_the_returns(cheetah_data):
    report = data_report(cheetah_data)
    assert report["parameters_behind_returns"] == {}  # four tasks are too few
    report["parameters_behind_returns"] = {"velocity": -0.8, "mass": 0.5}
    assert format_data_table(report).splitlines()[-1].endswith("over tasks): velocity (-0.80), mass (+0.50)")


def test_the_report_of_a_point_robot_has_its_optimum():
    dataset = collect_task_dataset("point_robot", recipe="smoke")
    report = data_report(dataset)
    assert report["reference"]["optimum"] == pytest.approx(-3.855, abs=1e-3)
    assert "oracle" not in report["reference"] and report["reference"]["train"]["random"] == -20.35
    every = optimal_returns(make_task_set("point_robot")).mean().item()
    assert report["reference"]["all"]["optimum"] == pytest.approx(every)
