from __future__ import annotations

import dataclasses
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from ctmrl_torchrl.envs import (
    TaskSet,
    gap_split,
    get_family,
    make_task_set,
    optimal_returns,
    register_family,
)


@pytest.mark.parametrize(
    ("num_train", "num_test", "first", "second", "last"),
    [(30, 10, 2, 6, 38), (80, 20, 2, 7, 97), (40, 10, 2, 7, 47)],
)
def test_gap_split_indices(num_train, num_test, first, second, last):
    train, test = gap_split(num_train, num_test)
    assert (test[0], test[1], test[-1]) == (first, second, last)
    assert len(train) == num_train and len(test) == num_test
    assert sorted(train + test) == list(range(num_train + num_test))


@pytest.mark.parametrize(("num_train", "num_test"), [(0, 10), (10, 0), (-4, 2), (3.5, 1), (True, 1)])
def test_gap_split_needs_positive_counts(num_train, num_test):
    with pytest.raises(ValueError, match=f"num_train={num_train}, num_test={num_test}"):
        gap_split(num_train, num_test)


@pytest.mark.parametrize("num_test", range(1, 12))
@pytest.mark.parametrize("num_train", range(1, 12))
def test_gap_split_spreads_any_counts_evenly(num_train, num_test):
    train, test = gap_split(num_train, num_test)
    assert len(train) == num_train and len(test) == num_test
    assert sorted(train + test) == list(range(num_train + num_test))
    # every test task is the one in the middle of its stretch of equal length
    stretch = (num_train + num_test) / num_test
    for index, task in enumerate(test):
        assert index * stretch <= task + 0.5 <= (index + 1) * stretch
        assert abs(task + 0.5 - (index + 0.5) * stretch) <= 0.5


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


@pytest.mark.parametrize("name", ["hopper_rand_params", "walker_rand_params"])
def test_training_tasks_can_be_added_to_a_preset(name):
    few, many = make_task_set(name, "repo"), make_task_set(name, "repo+7")
    assert many.preset == "repo+7" and many.test_ids == few.test_ids
    assert many.train_ids == (*few.train_ids, *range(40, 47))
    assert torch.equal(many.parameters[:40], few.parameters)
    assert get_family(name).task_counts("repo+7") == (37, 10)
    known = get_family(name).random_return["repo"]
    assert get_family(name).known_random_returns("repo") == known
    assert get_family(name).known_random_returns("repo+7") == {"test": known["test"]}


@pytest.mark.parametrize(
    "preset", ["repo+", "repo+0", "repo+-2", "repo+1.5", "repo+x", "+5", "more+5", "repo+\u0663"]
)
def test_what_is_added_is_a_positive_whole_number(preset):
    with pytest.raises(ValueError, match=r"Known presets: repo, paper; PRESET\+N adds N training tasks"):
        make_task_set("hopper_rand_params", preset)


@pytest.mark.parametrize("name", ["point_robot", "point_robot_wind", "half_cheetah_vel", "ant_goal"])
def test_nothing_is_added_where_the_test_tasks_would_change(name):
    with pytest.raises(ValueError, match="cannot be added to 'repo' of .*depend on their number"):
        make_task_set(name, "repo+7")


@pytest.mark.parametrize(
    "ids",
    [
        (5, 0),
        [5.0, 0],
        torch.tensor([5, 0]),
        torch.tensor([5.0, 0.0]),
        [torch.tensor(5), 0],
        np.array([5, 0]),
        (np.int64(5), np.uint8(0)),
        iter([5, 0]),
    ],
)
def test_ids_are_taken_in_any_form(ids):
    ids = make_task_set("point_robot", num_train=4, num_test=2).validate_ids(ids)
    assert ids == (5, 0) and [type(task) for task in ids] == [int, int]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([1, 1.5], r"integers, got 1\.5"),
        ([float("nan"), float("inf")], "integers, got nan, inf"),
        ([True], "integers, got True"),
        ([np.True_], "integers, got True"),
        (torch.tensor([True, False]), "integers, got True, False"),
        (["1"], "integers, got '1'"),
        ("12", "must be a sequence of integers, got '12'"),
        (3, "must be a sequence of integers, got 3"),
        (torch.tensor([[1, 2]]), r"one dimension, got the shape \[1, 2\]"),
        (torch.tensor(1), r"one dimension, got the shape \[\]"),
        ([6], "Task id 6 is not in the 'point_robot' task set .*0 to 5"),
        ([-1], "Task id -1"),
    ],
)
def test_ids_are_whole_numbers_of_the_set(ids, message):
    with pytest.raises(ValueError, match=message):
        make_task_set("point_robot", num_train=4, num_test=2).validate_ids(ids)


GOALS = make_task_set("point_robot", num_train=4, num_test=2).parameters


@pytest.mark.parametrize(
    ("parameters", "train", "test", "message"),
    [
        (GOALS, (0, 1, 2), (), "test_ids .*empty"),
        (GOALS, (), (0, 1), "train_ids .*empty"),
        (GOALS[:1], (0,), (), "test_ids .*empty"),
        (GOALS[:0], (), (), "train_ids .*empty"),
        (GOALS, (0, 0, 1), (2,), r"train_ids .*tasks \[0\] more than once"),
        (GOALS, (0, 1), (1, 2), r"Tasks \[1\] are in both"),
        (GOALS, (0, 6), (1,), "Task id 6 .*0 to 5"),
        (GOALS, (0, 0.5), (1,), r"integers, got 0\.5"),
        (GOALS * float("nan"), (0, 1), (2,), "goal_x=nan for task 0 and 11 more"),
        (GOALS / torch.tensor([1, 0]), (0, 1), (2,), "must be finite"),
        ([[1.0, float("inf")]] * 2, (0,), (1,), "goal_y=inf for task 0"),
        (GOALS[:, :1], (0,), (1,), r"shape \[tasks, 2\] \(goal_x, goal_y\), got \[6, 1\]"),
        (GOALS[0], (0,), (1,), r"got \[2\]"),
        ([[1.0, 2.0], [1.0]], (0,), (1,), "must be numbers"),
        ([["a", "b"]], (0,), (1,), "must be numbers"),
        (GOALS.bool(), (0, 1), (2,), "must be real numbers, got torch.bool"),
        (GOALS.numpy() + 1j, (0, 1), (2,), "must be real numbers, got complex128"),
    ],
)
def test_a_task_set_is_checked_when_it_is_made(parameters, train, test, message):
    with pytest.raises(ValueError, match=message):
        TaskSet(get_family("point_robot"), "mine", parameters, train, test)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (torch.arange(4), torch.tensor([5, 4])),
        (np.arange(4), np.array([4, 5])),
        (tuple(np.arange(4)), tuple(np.arange(4, 6))),
        (range(3, -1, -1), [4, 5]),
    ],
)
def test_splits_are_stored_as_plain_increasing_integers(train, test):
    tasks = TaskSet(get_family("point_robot"), "mine", GOALS.float().numpy(), train, test)
    assert (tasks.train_ids, tasks.test_ids) == ((0, 1, 2, 3), (4, 5))
    assert {type(task) for task in tasks.train_ids + tasks.test_ids} == {int}
    assert tasks.parameters.dtype == torch.float64
    assert TaskSet.from_dict(json.loads(json.dumps(tasks.to_dict()))).to_dict() == tasks.to_dict()


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e9])
def test_standardized_parameters_do_not_depend_on_the_unit(unit):
    tasks = make_task_set("point_robot")
    scaled = replace(tasks, parameters=tasks.parameters * unit).standardized_parameters()
    torch.testing.assert_close(scaled, tasks.standardized_parameters())
    training = scaled[list(tasks.train_ids)]
    torch.testing.assert_close(training.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(training.std(0), torch.ones(2))


def test_what_all_training_tasks_share_is_only_centered():
    parameters = torch.stack((torch.linspace(0, 1, 6), torch.full((6,), 0.1)), -1)
    parameters[5, 1] = 0.3
    tasks = TaskSet(get_family("point_robot"), "mine", parameters, range(5), [5])
    assert tasks.standardized_parameters()[:, 1].tolist() == pytest.approx([0, 0, 0, 0, 0, 0.2], abs=1e-6)
    alone = TaskSet(get_family("point_robot"), "mine", parameters, [0], [5])
    assert alone.standardized_parameters()[5].tolist() == pytest.approx([1.0, 0.2])


def test_a_task_in_words():
    assert make_task_set("point_robot").describe(39) == "task 39 (goal_x=-1, goal_y=1.22465e-16)"
    words = make_task_set("hopper_rand_params").describe(3)
    assert words.startswith("task 3 (log_body_mass_0=") and words.endswith(", and 37 more)")


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
    assert get_family("point_robot_wind").return_key == ("next", "reward")
    assert get_family("sparse_point_robot").return_key == ("next", "sparse_reward")


def test_the_name_of_data_alone_is_no_familys():
    family = dataclasses.replace(get_family("point_robot"), name="dataset", gymnasium_id=None)
    with pytest.raises(ValueError, match="cannot be named 'dataset': env=dataset selects data without one"):
        register_family(family)


def test_a_name_is_registered_once():
    family = get_family("point_robot")
    assert register_family(family) is family
    with pytest.raises(ValueError, match="already registered"):
        register_family(replace(family, horizon=5))
    with pytest.raises(ValueError, match="gymnasium id 'ctmrl/PointRobot-v0' belongs to .*'point_robot'"):
        register_family(replace(family, name="mine"))


def with_optimum(function):
    family = replace(get_family("point_robot"), optimum=function)
    return replace(make_task_set("point_robot", num_train=2, num_test=1), family=family)


@pytest.mark.parametrize(
    "values", [[1, 2.5, 3], np.array([1, 2.5, 3], np.float32), torch.tensor([1, 2.5, 3], requires_grad=True)]
)
def test_an_optimum_is_one_number_per_task(values):
    returns = optimal_returns(with_optimum(lambda task_set: values))
    assert returns.dtype == torch.float64 and returns.tolist() == [1.0, 2.5, 3.0]
    assert not returns.requires_grad


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (3.0, r"got the shape \[\]"),
        (torch.zeros(3, 1), r"got the shape \[3, 1\]"),
        ([1.0, 2.0], r"got the shape \[2\]"),
        ([0.0, float("nan"), 0.0], r"all finite, got nan for task 1 \(goal_x"),
        ([0.0, 0.0, -np.inf], "all finite, got -inf for task 2"),
        (None, "got NoneType: "),
        (["a", "b", "c"], "got list: "),
    ],
)
def test_a_wrong_optimum_is_named_with_its_family(values, message):
    tasks = with_optimum(lambda task_set: values)
    with pytest.raises(ValueError, match=rf"optimum of 'point_robot' .*\[3\],? {message}"):
        optimal_returns(tasks)
