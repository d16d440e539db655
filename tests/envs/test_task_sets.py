from __future__ import annotations

import json

import pytest
import torch

from ctmrl_torchrl.envs import ENV_NAMES, TaskSet, gap_split, get_family, make_task_set, register_family
from ctmrl_torchrl.envs.families import load_entry_point


@pytest.mark.parametrize(
    ("num_train", "num_test", "first", "second", "last"),
    [(30, 10, 2, 6, 38), (80, 20, 2, 7, 97), (40, 10, 2, 7, 47)],
)
def test_gap_split_indices(num_train, num_test, first, second, last):
    train, test = gap_split(num_train, num_test)
    assert (test[0], test[1], test[-1]) == (first, second, last)
    assert len(train) == num_train and len(test) == num_test
    assert sorted(train + test) == list(range(num_train + num_test))


@pytest.mark.parametrize(("num_train", "num_test"), [(31, 10), (0, 10), (10, 0), (-4, 2), (5, 10)])
def test_gap_split_rejects_counts_it_cannot_spread(num_train, num_test):
    with pytest.raises(ValueError, match=f"num_train={num_train}, num_test={num_test}"):
        gap_split(num_train, num_test)


@pytest.mark.parametrize(
    ("name", "preset", "n_tasks"),
    [
        ("point_robot", "repo", 40),
        ("point_robot", "paper", 100),
        ("point_robot_wind", "paper", 50),
        ("sparse_point_robot", "paper", 100),
    ],
)
def test_preset_sizes(name, preset, n_tasks):
    tasks = make_task_set(name, preset)
    assert len(tasks) == tasks.n_tasks == n_tasks
    assert tasks.parameters.shape == (n_tasks, len(tasks.parameter_names))


def test_goals_lie_on_the_closed_upper_half_circle():
    goals = make_task_set("point_robot").parameters
    torch.testing.assert_close(goals.norm(dim=-1), torch.ones(40, dtype=torch.float64))
    torch.testing.assert_close(goals[[0, -1]], torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64))
    angles = torch.atan2(goals[:, 1], goals[:, 0])
    torch.testing.assert_close(angles.diff(), torch.full((39,), torch.pi / 39, dtype=torch.float64))
    assert torch.equal(goals, make_task_set("sparse_point_robot").parameters)


def test_winds_match_the_published_task_set():
    tasks = make_task_set("point_robot_wind")
    expected = [[-0.023798, -0.012517], [-0.034132, 0.019322], [-0.022187, -0.049710]]
    torch.testing.assert_close(
        tasks.parameters[:3], torch.tensor(expected, dtype=torch.float64), atol=6e-7, rtol=0
    )
    mean = tasks.parameters[list(tasks.test_ids)].mean(0)
    torch.testing.assert_close(mean, torch.tensor([-0.0165, -0.0061], dtype=torch.float64), atol=6e-5, rtol=0)


def test_drawing_winds_leaves_the_global_generator_alone():
    import numpy as np

    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    make_task_set("point_robot_wind")
    assert np.random.rand() == expected


def test_counts_can_be_overridden():
    tasks = make_task_set("point_robot", num_train=4, num_test=2)
    assert tasks.preset == "4+2" and tasks.train_ids == (0, 2, 3, 5) and tasks.test_ids == (1, 4)
    assert make_task_set("point_robot", num_train=30).preset == "repo"


def test_ids_are_whole_numbers_of_the_set():
    tasks = make_task_set("point_robot", num_train=4, num_test=2)
    assert tasks.validate_ids(torch.tensor([5, 0])) == (5, 0)
    with pytest.raises(ValueError, match=r"whole numbers, got 1\.5"):
        tasks.validate_ids([1, 1.5])
    with pytest.raises(ValueError, match="Task id 6 is not in the 'point_robot' task set"):
        tasks.validate_ids([6])


@pytest.mark.parametrize("name", ENV_NAMES)
def test_json_round_trip(name):
    tasks = make_task_set(name, num_train=6, num_test=2)
    again = TaskSet.from_dict(json.loads(json.dumps(tasks.to_dict())))
    assert torch.equal(again.parameters, tasks.parameters)
    assert again.to_dict() == tasks.to_dict() and again.family is tasks.family


def test_from_dict_names_what_is_wrong():
    data = make_task_set("point_robot", num_train=2, num_test=1).to_dict()
    with pytest.raises(ValueError, match="train_ids"):
        TaskSet.from_dict({key: value for key, value in data.items() if key != "train_ids"})
    with pytest.raises(ValueError, match="goal_x.*wind_x"):
        TaskSet.from_dict({**data, "parameter_names": ["wind_x", "wind_y"]})
    with pytest.raises(ValueError, match="both the training and the test"):
        TaskSet.from_dict({**data, "test_ids": [0]})
    with pytest.raises(ValueError, match="Task id 9 .* 0 to 2"):
        TaskSet.from_dict({**data, "test_ids": [9]})
    with pytest.raises(ValueError, match=r"\[tasks, 2\].*\[3, 1\]"):
        TaskSet.from_dict({**data, "parameters": [[0.0], [1.0], [2.0]]})


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ValueError, match="'point_robto'.*point_robot, point_robot_wind, sparse_point_robot"):
        get_family("point_robto")
    with pytest.raises(ValueError, match="'papre'.*repo, paper"):
        make_task_set("point_robot", "papre")


def test_families_know_their_context_and_reward():
    assert get_family("point_robot_wind").context_next_observation
    assert not get_family("point_robot").context_next_observation
    assert [get_family(name).codes for name in ENV_NAMES[:3]] == [8, 8, 4]
    assert get_family("sparse_point_robot").return_key == ("next", "sparse_reward")


@pytest.mark.parametrize("name", ENV_NAMES)
def test_entry_points_exist(name):
    family = get_family(name)
    for entry in filter(None, (family.env_builder, family.gymnasium_class, family.optimum)):
        assert callable(load_entry_point(entry))


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="already registered"):
        register_family(get_family("point_robot"))
