from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ctmrl_torchrl.data import DatasetError, TaskDataset, import_released
from ctmrl_torchrl.data.interchange import released as importers
from ctmrl_torchrl.envs import (
    get_family,
    make_task_set,
    register_family,
    sparse_reward,
    unregister_family,
)

SAMPLES, STEPS, TASKS = (0, 1, 10), (800, 2400), (0, 2, 11)


def rollout(task: int, step: int, sample: int, length: int = 20) -> list[list]:
    """Random steps of a point robot: rows of (observation, action, reward, next observation)."""
    generator = np.random.default_rng([task, step, sample])
    goal = make_task_set("point_robot").parameters[task].numpy()
    rows, position = [], np.zeros(2)
    for _ in range(length):
        action = generator.uniform(-1, 1, 2)
        following = position + 0.1 * action
        rows.append([position, action, np.array([-np.linalg.norm(following - goal)]), following])
        position = following
    return rows


def write(path: Path, rows: list) -> Path:
    array = np.empty((len(rows), 4), dtype=object)
    for i, row in enumerate(rows):
        for j, value in enumerate(row):
            array[i, j] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array, allow_pickle=True)
    return path


def file_of(folder: Path, task: int, step: int, sample: int) -> Path:
    return folder / f"goal_idx{task}" / f"trj_evalsample{sample}_step{step}.npy"


@pytest.fixture
def released(tmp_path) -> Path:
    folder = tmp_path / "released"
    for task in TASKS:
        for step in STEPS:
            for sample in SAMPLES:
                write(file_of(folder, task, step, sample), rollout(task, step, sample))
    (folder / "goal_idx0" / "progress.csv").write_text("left alone")
    (folder / "plots").mkdir()
    return folder


@pytest.mark.parametrize("save", [False, True])
def test_every_transition_arrives_in_order(released, tmp_path, save):
    output = tmp_path / "dataset" if save else None
    dataset = import_released(released, env="point_robot", output=output, trust_pickle=True)
    assert isinstance(dataset, TaskDataset)
    assert dataset.path == output
    assert dataset.task_ids.tolist() == list(TASKS)
    assert dataset.n_trajectories == 18
    wanted = [
        (t, s, j) for t in TASKS for s in STEPS for j in SAMPLES
    ]  # numeric order: 2 before 11, 1 before 10
    rows = [row for task, step, sample in wanted for row in rollout(task, step, sample)]
    for key, column in (
        ("observation", 0),
        ("action", 1),
        (("next", "reward"), 2),
        (("next", "observation"), 3),
    ):
        expected = torch.tensor(np.stack([row[column] for row in rows]), dtype=torch.float32)
        torch.testing.assert_close(dataset.transitions[key].clone(), expected, atol=0, rtol=0)
    assert dataset.trajectory_snapshot.view(3, 2, 3)[:, :, 0].tolist() == [[0, 1]] * 3
    assert dataset.transitions["next", "truncated"].sum() == 18
    assert not dataset.transitions["next", "terminated"].any()


def test_the_manifest_tells_where_the_data_are_from(released):
    manifest = import_released(released, env="point_robot", trust_pickle=True).manifest
    assert manifest.env == "point_robot"
    assert manifest.preset == "repo"
    assert manifest.horizon == 20
    assert manifest.n_tasks == 40
    assert [entry["step"] for entry in manifest.snapshots] == [800, 2400]
    mean = np.mean([sum(r[2][0] for r in rollout(t, 800, j)) for t in TASKS for j in SAMPLES])
    assert manifest.snapshots[0]["mean_return"] == pytest.approx(mean, rel=1e-5)
    assert manifest.recipe == {"source": "import_released", "files": 18}


def test_the_sparse_family_gets_both_rewards(released):
    dataset = import_released(released, env="sparse_point_robot", trust_pickle=True)
    dense, sparse = dataset.transitions["next", "reward"], dataset.transitions["next", "sparse_reward"]
    torch.testing.assert_close(sparse, sparse_reward(dense))
    expected = dataset.trajectory_returns(("next", "sparse_reward"))[dataset.trajectory_snapshot == 0].mean()
    assert dataset.manifest.snapshots[0]["mean_return"] == pytest.approx(float(expected))


def test_nothing_is_opened_without_trust(released, monkeypatch):
    def opened(*args, **kwargs):
        raise AssertionError("a file was opened")

    monkeypatch.setattr(importers.np, "load", opened)
    with pytest.raises(DatasetError, match="can run any code.*pass trust_pickle=True; nothing was opened"):
        import_released(released, env="point_robot")


def test_short_trajectories_are_falls_only_where_one_can_fall(released):
    write(file_of(released, 0, 800, 1), rollout(0, 800, 1, length=7))
    dataset = import_released(released, env="point_robot", trust_pickle=True)
    assert dataset.trajectory_length.min() == 7
    assert not dataset.transitions["next", "terminated"].any()
    custom = replace(get_family("point_robot"), name="falling", gymnasium_id=None, terminates=True)
    register_family(custom)
    try:
        dataset = import_released(released, env="falling", trust_pickle=True)
    finally:
        unregister_family("falling")
    assert dataset.transitions["next", "terminated"].nonzero()[:, 0].tolist() == [26]
    assert not dataset.transitions["next", "truncated"][26]
    assert dataset.transitions["next", "truncated"].sum() == 17


def test_scalar_rewards_and_tuples_are_understood(released):
    rows = [(o, a, float(r[0]), n) for o, a, r, n in rollout(0, 800, 0)]
    array = np.empty(len(rows), dtype=object)
    array[:] = rows
    np.save(file_of(released, 0, 800, 0), array, allow_pickle=True)
    dataset = import_released(released, env="point_robot", trust_pickle=True)
    assert dataset.transitions["next", "reward"][3].item() == pytest.approx(rows[3][2])


def replaced(rows, i, column, value):
    rows[i][column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (lambda r: replaced(r, 4, 0, np.zeros(3)), "observation of row 4 has 3 numbers, expected 2"),
        (lambda r: replaced(r, 5, 1, np.array([np.nan, 0])), "action of row 5 is not finite"),
        (
            lambda r: replaced(r, 6, 1, np.array([1.5, 0])),
            r"action of row 6 is \[1.5, 0.0\], outside \[-1, 1\]",
        ),
        (lambda r: replaced(r, 7, 2, "good"), "reward of row 7 is not numeric"),
        (lambda r: replaced(r, 8, 3, None), "next observation of row 8"),
        (lambda r: [r[1], r[0], *r[2:]], "row 1 does not start where row 0 ended"),
        (lambda r: r + r, "40 transitions, more than the horizon 20 of point_robot; pass horizon="),
        (lambda r: [], "expected an array of transitions"),
    ],
)
def test_wrong_rows_are_named_with_their_file(released, rows, message):
    write(file_of(released, 2, 2400, 10), rows(rollout(2, 2400, 10)))
    with pytest.raises(DatasetError, match=f"goal_idx2/trj_evalsample10_step2400.npy: .*{message}"):
        import_released(released, env="point_robot", trust_pickle=True)


def test_rows_of_another_length_and_damaged_files(released):
    np.save(file_of(released, 2, 800, 0), np.zeros((20, 3)))
    with pytest.raises(
        DatasetError, match=r"step800.npy: row 0 is ndarray of shape \[3\], expected \(observation"
    ):
        import_released(released, env="point_robot", trust_pickle=True)
    file_of(released, 2, 800, 0).write_bytes(b"not numpy")
    with pytest.raises(DatasetError, match="step800.npy: cannot be read as .npy"):
        import_released(released, env="point_robot", trust_pickle=True)


def test_folders_that_do_not_fit(released, tmp_path):
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        import_released(tmp_path / "nowhere", env="point_robot", trust_pickle=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="contains no folders goal_idx"):
        import_released(tmp_path / "empty", env="point_robot", trust_pickle=True)
    (released / "goal_idx7").touch()  # no folder: left alone
    assert import_released(released, env="point_robot", trust_pickle=True).task_ids.tolist() == list(TASKS)
    (released / "goal_idx5").mkdir()
    with pytest.raises(DatasetError, match="goal_idx5: no trj_evalsample"):
        import_released(released, env="point_robot", trust_pickle=True)
    (released / "goal_idx5").rename(released / "goal_idx77")
    with pytest.raises(
        DatasetError, match="task 77, but the task set 'repo' has 40 tasks; choose the preset"
    ):
        import_released(released, env="point_robot", trust_pickle=True)


def test_wrong_names(released):
    with pytest.raises(ValueError, match="point_robot_wind"):
        import_released(released, env="no_such_env", trust_pickle=True)
    with pytest.raises(ValueError, match="task_set is of the family 'point_robot_wind'"):
        import_released(
            released, env="point_robot", task_set=make_task_set("point_robot_wind"), trust_pickle=True
        )
    assert get_family("point_robot").horizon == 20
