"""What comes back from Minari after a user, or Minari itself, has changed or combined what was exported."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from synthetic_data import make_manifest, make_transitions

from ctmrl_torchrl.data import DatasetError, TaskDataset, from_minari, to_minari

TRAJECTORIES = [(0, 0, 4), (0, 2, 1), (1, 1, 3), (3, 0, 2), (3, 0, 4), (3, 1, 4)]


def exported(**entries: torch.Tensor) -> TaskDataset:
    transitions = make_transitions(TRAJECTORIES, 4, sparse=True)
    transitions.update(entries)
    transitions["next", "observation"][1] += 1  # a gap in the first episode
    return TaskDataset.from_tensordict(transitions, make_manifest(TRAJECTORIES, 4))


def open_file(tmp_path, task=0):
    h5py = importlib.import_module("h5py")
    return h5py.File(
        tmp_path / "minari" / "me" / "robot" / f"task-{task}-v0" / "data" / "main_data.hdf5", "a"
    )


@pytest.mark.parametrize("width", [2, 5])
def test_an_entry_of_any_name_is_kept_apart_from_the_next_observations(minari, width):
    dataset = exported(next_observation=torch.randn(18, width))
    again = from_minari(to_minari(dataset, "me/robot"))
    for key, value in dataset.transitions.items(True, True):
        assert torch.equal(again.transitions[key], value), key


def test_exports_of_earlier_versions_keep_their_gaps(minari, tmp_path):
    dataset = exported()
    names = to_minari(dataset, "me/robot")
    with open_file(tmp_path) as file:
        infos = file["episode_0/infos/ctmrl"]
        infos.move("next.observation", "next_observation")
    again = from_minari(names)
    assert torch.equal(again.transitions["next", "observation"], dataset.transitions["next", "observation"])


def replace(episode, name, change):
    values = episode[name][:]
    del episode[name]
    episode[name] = change(values)


SPARSE = "infos/ctmrl/next.sparse_reward"
CHANGES = {
    "entry gone": (lambda e: e["infos/ctmrl"].pop("next.sparse_reward"), "its infos lack next.sparse_reward"),
    "infos gone": (lambda e: e.pop("infos"), "its infos lack next.sparse_reward"),
    "entry of another dtype": (
        lambda e: replace(e, SPARSE, lambda v: v.astype(np.float64) + 0.1),
        r"next.sparse_reward is float64 \[1\] per step, expected float32 \[1\]",
    ),
    "short entry": (
        lambda e: replace(e, SPARSE, lambda v: v[:1]),
        "next.sparse_reward has 1 steps, but observation has 4",
    ),
    "rewards of another dtype": (
        lambda e: replace(e, "rewards", np.float64),
        "next.reward is float64",
    ),
    "short observations": (
        lambda e: replace(e, "observations", lambda v: v[:-1]),
        "action has 4 steps, but observation has 3",
    ),
    "NaN": (lambda e: replace(e, "rewards", lambda v: v * np.float32("nan")), "next.reward is not finite"),
    "rewards gone": (lambda e: e.pop("rewards"), "task-0-v0: the files are not as Minari writes them"),
    "snapshot gone": (lambda e: e.attrs.pop("snapshot_id"), "changed after its export .*snapshot_id"),
    "snapshot is text": (lambda e: e.attrs.update(snapshot_id="x"), "snapshot_id is 'x'"),
    "snapshot is a fraction": (lambda e: e.attrs.update(snapshot_id=0.7), "snapshot_id is .*0.7"),
    "no length": (lambda e: e.attrs.pop("total_steps"), "not as Minari writes them .*total_steps"),
    "too long": (lambda e: e.attrs.update(total_steps=7), "have 18 steps in all, but 21 were counted"),
    "too short": (lambda e: e.attrs.update(total_steps=1), "has 4 steps, more than were counted"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_is_dropped_cast_or_repeated(minari, tmp_path, change):
    names = to_minari(exported(), "me/robot")
    act, message = CHANGES[change]
    with open_file(tmp_path) as file:
        act(file["episode_0"])
    for output in (None, tmp_path / "set"):
        with pytest.raises(DatasetError, match=message):
            from_minari(names, output=output)
    assert [entry.name for entry in tmp_path.iterdir()] == ["minari"]


def test_episodes_of_an_export_come_back_in_order(minari):
    name = to_minari(exported(), "me/robot")[3]
    folder = minari.load_dataset(name).spec.data_path
    shuffled = from_minari({3: minari.MinariDataset(folder, np.array([2, 0, 1]))})
    assert torch.equal(shuffled.transitions["observation"], from_minari({3: name}).transitions["observation"])
    assert shuffled.trajectory_snapshot.tolist() == [0, 0, 1]


def test_no_episode_counts_twice(minari):
    names = to_minari(exported(), "me/robot")
    with pytest.raises(DatasetError, match="episode 0 of me/robot/task-0-v0 is given twice, as task 0, snap"):
        from_minari({0: [names[0], names[0]]})
    one = minari.load_dataset(names[3])
    parts = [minari.MinariDataset(one.spec.data_path, np.array(each)) for each in ([0, 1], [2])]
    assert len(from_minari({3: parts})) == 10


def test_tasks_that_minari_combined_are_refused(minari):
    names = to_minari(exported(), "me/robot")
    both = minari.combine_datasets([minari.load_dataset(names[task]) for task in (0, 3)], "all-v0")
    with pytest.raises(
        DatasetError, match="all-v0 combines exports of to_minari, such as me/robot/task-0-v0"
    ):
        from_minari({0: both})


def test_parts_of_observations_are_the_same_in_all_datasets(minari):
    from gymnasium.spaces import Box, Dict
    from minari.data_collector.episode_buffer import EpisodeBuffer

    box = Box(-np.inf, np.inf, (2,), np.float64)

    def make(name, *parts):
        ends = np.array([False, True])
        episode = EpisodeBuffer(
            id=0,
            observations={part: np.zeros((3, 2)) for part in parts},
            actions=np.zeros((2, 1), np.float32),
            rewards=np.zeros(2),
            terminations=ends,
            truncations=ends,
        )
        spaces = {"observation_space": Dict(dict.fromkeys(parts, box)), "action_space": Box(-1, 1, (1,))}
        return minari.create_dataset_from_buffers(name, [episode], **spaces)

    first = make("first-v0", "a", "b")
    ends = from_minari({0: first}).transitions["next"]
    assert ends["terminated"][-1] and ends["truncated"][-1], "an episode may be terminated and truncated"
    with pytest.raises(DatasetError, match=r"different parts: a \[2\], b \[2\], and b \[2\], c \[2\]"):
        from_minari({0: first, 1: make("second-v0", "b", "c")})


def test_exports_leave_minaris_own_list_readable(minari, tmp_path):
    dataset = exported()
    for name in ("data", "me/data"):
        with pytest.raises(DatasetError, match="Minari takes a folder 'data' for the content of a dataset"):
            to_minari(dataset, name)
    to_minari(dataset, "me/robot")
    with pytest.raises(
        DatasetError, match="me/robot/task-0-v0 is a Minari dataset, so it cannot hold others"
    ):
        to_minari(dataset, "me/robot/task-0-v0")
    assert len(minari.list_local_datasets()) == 3


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"observation_space": 3}, "observation_space: no metadata of an export; known: algorithm_name"),
        ({"foo": 3}, "foo: no metadata of an export"),
        ({"author": 3}, "me/robot: Minari could not write it"),
        ({"env": "Nope-v1"}, "me/robot: Minari could not write it .*Nope"),
    ],
)
def test_metadata_that_minari_does_not_take_leave_nothing(minari, tmp_path, metadata, message):
    with pytest.raises(DatasetError, match=message):
        to_minari(exported(), "me/robot", **metadata)
    assert not minari.list_local_datasets()
    assert not list(tmp_path.rglob("*.hdf5"))


def test_a_folder_of_minari_that_cannot_be_used_is_named(minari, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    with pytest.raises(DatasetError, match="Minari's folder cannot be used .*MINARI_DATASETS_PATH"):
        to_minari(exported(), "me/robot")
    with pytest.raises(
        DatasetError, match="cannot be loaded as a Minari dataset .*local datasets: cannot be listed"
    ):
        from_minari({0: "me/robot-v0"})
    with pytest.raises(DatasetError, match="expected a TaskDataset, got dict"):
        to_minari({}, "me/robot")
