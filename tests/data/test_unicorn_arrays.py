from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ctmrl_torchrl.data import DatasetError, TaskDataset, import_dataset, import_unicorn

STEPS, COLUMNS = 6, 4
GOALS = {1: "2.62", 2: "-0.5", 10: "1e-3"}


def walk(seed: int, steps: int) -> dict[str, np.ndarray]:
    """One trajectory: the observation counts the steps from a beginning of its own."""
    generator = np.random.default_rng(seed)
    beginning = 100.0 * seed
    observation = beginning + np.arange(steps)[:, None] * np.ones(2)
    return {
        "obs": observation,
        "next_obs": observation + 1,
        "actions": generator.uniform(-1, 1, (steps, 3)),
        "rewards": generator.normal(size=(steps, 1)),
        "terminals": np.zeros((steps, 1)),
    }


def stacked(walks: list[dict[str, np.ndarray]], flat: bool) -> dict[str, np.ndarray]:
    join = np.concatenate if flat else lambda parts: np.stack(parts, 1)
    return {name: join([each[name] for each in walks]) for name in walks[0]}


def write(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


@pytest.fixture
def batch_data(tmp_path) -> Path:
    root = tmp_path / "data"
    for seed, goal in GOALS.items():
        walks = [walk(10 * seed + column, STEPS) for column in range(COLUMNS)]
        write(root / f"seed_{seed}_goal_{goal}", stacked(walks, flat=False))
    (root / "seed_1_goal_2.62" / "models").mkdir()
    (root / "notes").mkdir()
    return root


@pytest.mark.parametrize("output", [False, True])
def test_every_transition_arrives_in_order(batch_data, tmp_path, output):
    place = tmp_path / "out" if output else None
    dataset = import_unicorn(
        batch_data, env="ant_dir", test_ids=[2], discount=0.99, snapshots=2, output=place
    )
    assert isinstance(dataset, TaskDataset) and dataset.path == place
    assert dataset.manifest.tasks["parameters"] == [[2.62], [-0.5], [0.001]]
    assert dataset.manifest.train_ids == (0, 1) and dataset.manifest.test_ids == (2,)
    assert dataset.manifest.env == "ant_dir" and dataset.horizon == STEPS
    assert dataset.sizes().discount == 0.99
    assert dataset.trajectory_length.tolist() == [STEPS] * 12
    assert dataset.trajectory_snapshot.tolist() == [0, 0, 1, 1] * 3
    for name, key in (
        ("obs", "observation"),
        ("next_obs", ("next", "observation")),
        ("actions", "action"),
        ("rewards", ("next", "reward")),
    ):
        expected = np.concatenate([walk(10 * s + c, STEPS)[name] for s in GOALS for c in range(COLUMNS)])
        np.testing.assert_array_equal(dataset.transitions[key], expected.astype(np.float32))
    assert not dataset.transitions["next", "terminated"].any()
    assert sorted(path.name for path in tmp_path.iterdir()) == (["data", "out"] if output else ["data"])


@pytest.mark.parametrize(
    "given",
    [
        lambda: (i for i in [1, 2]),
        lambda: filter(None, [1, 2]),
        lambda: torch.tensor([1, 2]),
        lambda: np.array([1, 2]),
    ],
)
def test_test_tasks_may_be_given_in_any_way(batch_data, given):
    manifest = import_unicorn(batch_data, env="x", test_ids=given()).manifest
    assert manifest.train_ids == (0,) and manifest.test_ids == (1, 2)
    assert import_unicorn(batch_data, env="x", test_ids=2).manifest.train_ids == (0, 1)
    for wrong in ([1.5], "2", [True], torch.tensor([0.5])):
        with pytest.raises(ValueError, match="test_ids must be integers, got"):
            import_unicorn(batch_data, env="x", test_ids=wrong)


def test_flat_arrays_are_cut_at_terminals_breaks_and_the_horizon(tmp_path):
    lengths = (3, 2, 6, 4)  # a fall, a break, one of two horizons' length, the rest
    walks = [walk(i, length) for i, length in enumerate(lengths)]
    walks[0]["terminals"][-1] = 1
    walks[2]["rewards"] = walks[2]["rewards"]
    arrays = stacked(walks, flat=True)
    arrays["rewards"] = arrays["rewards"][:, 0]
    arrays["terminals"] = arrays["terminals"][:, 0].astype(bool)
    write(tmp_path / "goal_0.5_1.5", arrays)
    with pytest.raises(DatasetError, match="the arrays are flat.*pass horizon="):
        import_unicorn(tmp_path, env="x")
    dataset = import_dataset("unicorn", tmp_path, env="x", horizon=3)
    assert dataset.trajectory_length.tolist() == [3, 2, 3, 3, 3, 1]
    ends = dataset.trajectory_start + dataset.trajectory_length - 1
    assert dataset.transitions["next", "terminated"][ends, 0].tolist() == [True] + [False] * 5
    assert dataset.transitions["next", "truncated"][ends, 0].tolist() == [False] + [True] * 5
    assert dataset.manifest.tasks["parameters"] == [[0.5, 1.5]]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("terminals", None, "terminals.npy is missing"),
        ("obs", np.zeros(5), r"obs.npy: has shape \[5\], expected"),
        ("rewards", np.zeros((STEPS, COLUMNS, 2)), r"rewards.npy: has shape \[6, 4, 2\]"),
        ("next_obs", np.zeros((STEPS, COLUMNS, 3)), "next_obs.npy: has shape"),
        ("actions", np.zeros((STEPS, 3, 3)), "actions.npy: has shape"),
        ("actions", np.full((STEPS, COLUMNS, 3), 2.0), r"action is outside \[-1, 1\].*task 1"),
        ("rewards", np.full((STEPS, COLUMNS, 1), np.nan), "rewards.npy of step 0 is not finite"),
        ("terminals", np.full((STEPS, COLUMNS, 1), 0.5), "terminals.npy must contain one flag per step"),
        ("obs", np.array([{}], dtype=object), "obs.npy: cannot be read as .npy"),
    ],
)
def test_wrong_files_are_named(batch_data, name, change, message):
    file = batch_data / "seed_2_goal_-0.5" / f"{name}.npy"
    file.unlink()
    if change is not None:
        np.save(file, change, allow_pickle=change.dtype == object)
    with pytest.raises(DatasetError, match=message):
        import_unicorn(batch_data, env="ant_dir")


def test_names_that_say_no_parameters(batch_data, tmp_path):
    (batch_data / "seed_2_goal_-0.5").rename(batch_data / "seed_2_goal_params")
    with pytest.raises(DatasetError, match="seed_2_goal_params: its name does not say .*pass parameters="):
        import_unicorn(batch_data, env="x")
    dataset = import_unicorn(batch_data, env="x", parameters=[[1], [2], [3]], parameter_names=["mass"])
    assert dataset.manifest.tasks["parameter_names"] == ["mass"]
    with pytest.raises(DatasetError, match="parameters has 1 rows, but there are 3"):
        import_unicorn(batch_data, env="x", parameters=[[1]])
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        import_unicorn(tmp_path / "nowhere", env="x")
    with pytest.raises(DatasetError, match="contains no folders seed_"):
        import_unicorn(batch_data / "notes", env="x")


def test_the_target_is_checked_before_anything_is_read(batch_data, tmp_path, monkeypatch):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    monkeypatch.setattr("ctmrl_torchrl.data.interchange.unicorn._open", None)
    for overwrite in (False, True):
        with pytest.raises(DatasetError, match="already exists|not a dataset"):
            import_unicorn(batch_data, env="x", output=tmp_path / "thesis", overwrite=overwrite)
