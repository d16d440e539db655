from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from synthetic_data import even, make_dataset, make_manifest, make_transitions

from ctmrl_torchrl.data import (
    ContextDraw,
    DatasetError,
    TaskDataset,
    TaskSampler,
    from_minari,
    import_dataset,
    to_minari,
)

MIXED = [(0, 0, 4), (0, 2, 1), (1, 1, 3), (3, 0, 2), (3, 0, 4), (3, 1, 4)]


def test_without_minari_the_error_says_how_to_install_it(monkeypatch):
    real = importlib.import_module

    def none(name, *args):
        if name == "minari":
            raise ImportError("No module named 'minari'")
        return real(name, *args)

    monkeypatch.setattr(importlib, "import_module", none)
    for act in (lambda: to_minari(make_dataset(), "x"), lambda: from_minari({0: "x/y-v0"})):
        with pytest.raises(ImportError, match=r'pip install "minari\[hdf5\]'):
            act()


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ({}, "give a dictionary"),
        (["x-v0"], "give a dictionary"),
        ({0.5: "x-v0"}, "integers of at least 0, got 0.5"),
        ({True: "x-v0"}, "integers of at least 0, got True"),
        ({-1: "x-v0"}, "integers of at least 0, got -1"),
        ({0: []}, "task 0 has no Minari dataset"),
        ({0: 3}, "expected a Minari dataset or its name, got int"),
    ],
)
def test_what_is_not_one_dataset_per_task_is_refused(datasets, message):
    with pytest.raises(DatasetError, match=message):
        from_minari(datasets)


def rich_dataset() -> TaskDataset:
    """Every kind of end, both rewards, extra entries of awkward dtypes, a break between two steps."""
    transitions = make_transitions(MIXED, 4, sparse=True)
    count = len(transitions)
    transitions["value"] = torch.randn(count, 3, generator=torch.Generator().manual_seed(0)).bfloat16()
    transitions["next", "info", "steps"] = torch.arange(count, dtype=torch.int32)
    transitions["next", "info", "exact"] = torch.arange(count).double() / 3
    transitions["next", "truncated"][4] = True  # terminated and truncated at once
    transitions["next", "observation"][1] += 1  # the next row starts elsewhere
    manifest = make_manifest(
        MIXED,
        4,
        seeds={"collection": 3},
        versions={"torch": "2"},
        recipe={"name": "mine", "steps": [1, 2]},
        oracle={"train": 1.5, "test": None},
        discount=0.9,
    )
    return TaskDataset.from_tensordict(transitions, manifest)


def assert_same(found: TaskDataset, expected: TaskDataset) -> None:
    assert set(found.transitions.keys(True, True)) == set(expected.transitions.keys(True, True))
    for key, value in expected.transitions.items(True, True):
        assert found.transitions[key].dtype == value.dtype, key
        assert torch.equal(found.transitions[key], value), key
    assert found.manifest.replace(checksums={}, folder="transitions") == expected.manifest


@pytest.mark.parametrize("output", [False, True])
def test_there_and_back_again_without_loss(minari, tmp_path, output):
    dataset = rich_dataset()
    names = to_minari(dataset, "me/robot", author="me", description="Mine.")
    assert names == {task: f"me/robot/task-{task}-v0" for task in (0, 1, 3)}
    one = minari.load_dataset(names[3])
    assert one.total_episodes == 3 and one.total_steps == 10
    assert one.storage.metadata["description"] == "Mine."
    ends = [(bool(e.terminations[-1]), bool(e.truncations[-1])) for e in one.iterate_episodes()]
    assert ends == [(True, False), (False, True), (False, True)]
    np.testing.assert_array_equal(one[1].observations[:-1], dataset.transitions["observation"][10:14])
    assert_same(from_minari(names, output=tmp_path / "set" if output else None), dataset)
    assert_same(
        import_dataset("minari", {task: minari.load_dataset(name) for task, name in names.items()}), dataset
    )


def test_what_is_given_replaces_what_the_manifest_says(minari):
    names = to_minari(rich_dataset(), "me/robot")
    dataset = from_minari(names, env="other", test_ids=[3], discount=0.5)
    assert dataset.manifest.env == "other" and dataset.manifest.discount == 0.5
    assert dataset.manifest.train_ids == (0, 1) and dataset.manifest.test_ids == (3,)
    assert dataset.manifest.tasks["parameters"] == rich_dataset().manifest.tasks["parameters"]
    with pytest.raises(DatasetError, match="contains task 3, but was given as task 0"):
        from_minari({0: names[3]})


@pytest.mark.parametrize(
    "given", [{"parameter_names": ["a", "b"]}, {"parameters": {i: [i] for i in range(4)}}]
)
def test_a_task_in_neither_split_stays_there(minari, given):
    dataset = rich_dataset()
    tasks = dataset.manifest.tasks | {"train_ids": [0, 3], "test_ids": [2]}  # task 1 is held out
    held_out = TaskDataset.from_tensordict(dataset.transitions, dataset.manifest.replace(tasks=tasks))
    names = to_minari(held_out, "me/robot")
    manifest = from_minari(names, **given).manifest
    assert manifest.train_ids == (0, 3) and manifest.test_ids == (2,)
    manifest = from_minari(names, **given, test_ids=[3]).manifest
    assert manifest.train_ids == (0, 1) and manifest.test_ids == (3,)


def test_an_export_never_replaces_and_a_failed_one_leaves_nothing(minari, monkeypatch):
    dataset = make_dataset(even(n_tasks=2, snapshots=1, trajectories=1))
    to_minari(dataset, "me/robot")
    with pytest.raises(DatasetError, match="has a dataset me/robot/task-0-v0 already .*choose another name"):
        to_minari(dataset, "me/robot")
    write = importlib.import_module("ctmrl_torchrl.data.interchange.minari_export")._write_task

    def fail_at_the_second(minari, dataset, task, *args):
        write(minari, dataset, task, *args)
        if task == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("ctmrl_torchrl.data.interchange.minari_export._write_task", fail_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        to_minari(dataset, "me/other")
    assert sorted(minari.list_local_datasets()) == ["me/robot/task-0-v0", "me/robot/task-1-v0"]


def test_what_minari_does_not_list_is_not_replaced_either(minari, tmp_path):
    """A damaged dataset, or anything of a user's, has the name of a task: Minari's list leaves it out."""
    mine = tmp_path / "minari" / "me" / "robot" / "task-1-v0" / "thesis.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(DatasetError, match=r"has a dataset me/robot/task-1-v0 already \(.*task-1-v0\)"):
        to_minari(make_dataset(even(n_tasks=2, snapshots=1, trajectories=1)), "me/robot")
    assert mine.read_text() == "mine" and [each.name for each in mine.parents[1].iterdir()] == ["task-1-v0"]


@pytest.mark.parametrize("name", ["", "../x", "/abs", "a b", "me/", "a/../../b", "x" * 300, None, 3])
def test_names_lead_into_minaris_own_folder(name):
    with pytest.raises(DatasetError, match="is no Minari namespace"):
        to_minari(make_dataset(), name)


@pytest.mark.parametrize("version", [-1, 1.5, True, "0", None])
def test_versions_are_whole_numbers(version):
    with pytest.raises(DatasetError, match="version must be a whole number from 0"):
        to_minari(make_dataset(), "x", version=version)


def test_cut_files_and_flat_parameters_are_named(minari, tmp_path):
    names = to_minari(make_dataset(even(n_tasks=2, snapshots=1, trajectories=1)), "me/robot")
    with pytest.raises(DatasetError, match=r"parameters of task 0 is 1\.0; give one list of numbers"):
        from_minari(names, parameters=[1.0, 2.0])
    for file in (tmp_path / "minari").rglob("*.hdf5"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DatasetError, match="me/robot/task-0-v0: the files cannot be read"):
        from_minari(names)


def make_minari(minari, name, *, episodes=3, steps=5, low=-2.0, high=2.0, ends="truncated", dictionary=False):
    """A user's own dataset, as Minari's documentation says how to make one."""
    from gymnasium.spaces import Box, Dict
    from minari.data_collector.episode_buffer import EpisodeBuffer

    generator = np.random.default_rng(len(name))
    box = Box(-np.inf, np.inf, (3,), np.float64)
    buffer = []
    for number in range(episodes):
        observations = generator.normal(size=(steps + 1, 3))
        last = np.arange(steps) == steps - 1
        buffer.append(
            EpisodeBuffer(
                id=number,
                observations={"b": observations, "a": observations[:, :2]} if dictionary else observations,
                actions=generator.uniform(low, high, (steps, 2)).astype(np.float32),
                rewards=generator.normal(size=steps),
                terminations=last & (ends == "terminated"),
                truncations=last & (ends == "truncated"),
            )
        )
    return minari.create_dataset_from_buffers(
        name,
        buffer,
        observation_space=Dict({"b": box, "a": Box(-np.inf, np.inf, (2,), np.float64)})
        if dictionary
        else box,
        action_space=Box(low, high, (2,), np.float32),
    )


def test_a_users_own_datasets_train_without_an_environment(minari, tmp_path):
    light = make_minari(minari, "light-v0", steps=5, ends="terminated")
    make_minari(minari, "heavy-v0", steps=7)
    make_minari(minari, "better-v0", steps=4, ends="neither")
    dataset = from_minari(
        {0: light, 2: ["heavy-v0", "better-v0"]},
        parameters={0: [1.0], 2: [4.0]},
        parameter_names=["mass"],
        test_ids=[2],
        discount=0.95,
        output=tmp_path / "set",
    )
    assert dataset.path == tmp_path / "set"
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "minari"] == ["set"]
    sizes = dataset.sizes()
    assert (sizes.observation_dim, sizes.action_dim, sizes.horizon, sizes.discount) == (3, 2, 7, 0.95)
    assert sizes.reward_keys == (("next", "reward"),) and sizes.return_key == ("next", "reward")
    assert dataset.trajectory_length.tolist() == [5, 5, 5, 7, 7, 7, 4, 4, 4]
    assert dataset.trajectory_snapshot.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1]
    last = dataset.trajectory_start + dataset.trajectory_length - 1
    assert dataset.transitions["next", "terminated"][last, 0].tolist() == [True] * 3 + [False] * 6
    assert dataset.transitions["next", "truncated"][last, 0].tolist() == [False] * 3 + [True] * 6
    assert dataset.manifest.train_ids == (0,) and dataset.manifest.test_ids == (2,)
    assert dataset.manifest.recipe["action_high"] == [2.0, 2.0]
    episode = light[1]
    rows = dataset.transitions[5:10]
    np.testing.assert_allclose(rows["action"], episode.actions / 2, rtol=1e-6)
    np.testing.assert_array_equal(rows["observation"], episode.observations[:-1].astype(np.float32))
    np.testing.assert_array_equal(rows["next", "observation"], episode.observations[1:].astype(np.float32))
    np.testing.assert_array_equal(rows["next", "reward"][:, 0], episode.rewards.astype(np.float32))
    sampler = TaskSampler(
        dataset,
        task_ids=[0],
        tasks_per_batch=1,
        transitions_per_task=4,
        context=ContextDraw(trajectories=(1, 2)),
    )
    assert dataset.replay_buffer(sampler).sample()["context"].batch_size == (1, 14)


def test_composed_observations_are_flattened_by_name(minari):
    data = make_minari(minari, "dict-v0", dictionary=True, low=-1.0, high=1.0)
    dataset = from_minari({0: data})
    expected = np.concatenate([data[0].observations["a"], data[0].observations["b"]], 1)[:-1]
    np.testing.assert_array_equal(dataset.transitions["observation"][:5], expected.astype(np.float32))
    np.testing.assert_array_equal(dataset.transitions["action"][:5], data[0].actions)
    assert dataset.manifest.tasks["parameters"] == [[0.0]]


class FakeDataset:
    """What a Minari dataset looks like, with episodes that are wrong."""

    def __init__(self, **changes):
        from types import SimpleNamespace

        from gymnasium.spaces import Box

        episode = {
            "id": 0,
            "observations": np.zeros((4, 2)),
            "actions": np.zeros((3, 1)),
            "rewards": np.zeros(3),
            "terminations": np.array([False, False, True]),
            "truncations": np.zeros(3, dtype=bool),
            "infos": None,
        }
        space = changes.pop("space", Box(-1, 1, (1,)))
        self.spec = SimpleNamespace(dataset_id="fake-v0", action_space=space, env_spec=None)
        self.episode = SimpleNamespace(**episode | changes)
        self.episode_indices = np.arange(1)
        steps = [{"total_steps": len(self.episode.rewards)}]
        self.storage = SimpleNamespace(metadata={}, get_episode_metadata=lambda indices: steps)

    def iterate_episodes(self):
        return iter([self.episode])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observations": np.zeros((3, 2))}, "has 3 observations for 3 steps, expected 4"),
        ({"observations": np.full((4, 2), np.nan)}, "observations of step 0 is not finite as float32"),
        ({"rewards": np.array([0, 1e300, 0])}, r"rewards of step 1 is not finite as float32: \[inf\]"),
        ({"rewards": np.array(["a", "b", "c"])}, "rewards has dtype <U1, expected numbers"),
        ({"terminations": np.array([True, False, True])}, "ends at step 0, but has 3 steps"),
        ({"terminations": np.array([0.0, 0.5, 1.0])}, "each 0 or 1"),
        (
            {"space": "Discrete(3)"},
            r"the action space is Discrete\(3\), but policies need continuous actions",
        ),
        ({"rewards": np.zeros(0)}, "fake-v0: episode 0 has no steps; remove it"),
        ({"actions": np.full((3, 1), 3.0)}, r"action is outside \[-1, 1\]"),
        ({"actions": np.zeros((1, 1))}, "episode 0: action has 1 steps, but observation has 3"),
        ({"actions": np.zeros((3, 2))}, "its actions have 2 numbers, but its action space has 1"),
        ({"terminations": np.zeros(2)}, "has 2 terminations for 3 steps"),
        ({"truncations": np.zeros(4)}, "has 4 truncations for 3 steps"),
        ({"rewards": np.array([0.0, np.nan, 0.0])}, "rewards of step 1 is not finite as float32"),
        ({"observations": {"a": np.zeros((4, 1)), "b": np.zeros((3, 1))}}, "are not as Minari writes them"),
        ({"infos": {"ctmrl": {}}}, "lacks the manifest, so its snapshot and other entries would be lost"),
    ],
)
def test_wrong_episodes_are_named(changes, message):
    with pytest.raises(DatasetError, match=message):
        from_minari({0: FakeDataset(**changes)})


def test_datasets_of_other_sizes_are_named():
    with pytest.raises(
        DatasetError, match=r"fake-v0, episode 0: observation is torch.float32 \[5\] per step"
    ):
        from_minari({0: FakeDataset(), 1: FakeDataset(observations=np.zeros((4, 5)))})
    with pytest.raises(DatasetError, match=r"parameters has no row for the tasks \[1\]"):
        from_minari({0: FakeDataset(), 1: FakeDataset()}, parameters=[[1.0]])
    with pytest.raises(DatasetError, match=r"test_ids \[7\] have no Minari dataset"):
        from_minari({0: FakeDataset()}, test_ids=[7])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_ids": 1}, "test_ids must be a list, got 1"),
        ({"test_ids": "1"}, "test_ids must be a list, got '1'"),
        ({"test_ids": [[1]]}, r"test_ids must be integers of at least 0, got \[1\]"),
        ({"test_ids": [True]}, "test_ids must be integers of at least 0, got True"),
        ({"parameters": 5}, "parameters must be a list, got 5"),
        ({"parameters": {0: [1.0], 1: [2.0], "x": [3.0]}}, "task ids of parameters must be .* got 'x'"),
        ({"parameter_names": 5}, "parameter_names must be a list, got 5"),
        ({"parameter_names": "task"}, "parameter_names must be a list, got 'task'"),
    ],
)
def test_malformed_options_are_named(options, message):
    with pytest.raises(DatasetError, match=message):
        from_minari({0: FakeDataset(), 1: FakeDataset()}, **options)


def test_numpy_numbers_are_task_ids():
    dataset = from_minari({np.int64(0): FakeDataset(), 2: FakeDataset()}, test_ids=np.array([2]))
    assert dataset.manifest.train_ids == (0,) and dataset.manifest.test_ids == (2,)


def test_one_action_means_the_same_in_all_datasets():
    from gymnasium.spaces import Box

    torques = FakeDataset(space=Box(-2, 2, (1,)))
    with pytest.raises(DatasetError, match=r"bounds: \[\[-1.0\], \[1.0\]\], and \[\[-2.0\], \[2.0\]\]"):
        from_minari({0: FakeDataset(), 1: torques})
    with pytest.raises(DatasetError, match=r"different bounds: .*inf"):
        from_minari({0: [torques, FakeDataset(space=Box(-np.inf, np.inf, (1,)))]})
    assert from_minari({0: torques}).manifest.recipe["action_high"] == [2.0]


@pytest.mark.parametrize(
    ("low", "high", "dimensions"),
    [
        ([-2, -np.inf], [2, np.inf], r"\[1\]"),
        ([-np.inf, -1], [2, 1], r"\[0\]"),
        ([0, 0], [np.inf, np.inf], r"\[0, 1\]"),
    ],
)
def test_partly_bounded_actions_are_refused(low, high, dimensions):
    from gymnasium.spaces import Box

    def given(low, high):
        return FakeDataset(space=Box(np.float32(low), np.float32(high)), actions=np.full((3, 2), 0.5))

    with pytest.raises(
        DatasetError, match=f"episode 0: the bounds .* not finite in the dimensions {dimensions} of 2"
    ):
        from_minari({0: given(low, high)})
    free = from_minari({0: given([-np.inf, -np.inf], [np.inf, np.inf])})
    assert free.transitions["action"].tolist() == [[0.5, 0.5]] * 3
    assert from_minari({0: given([-2, -1], [2, 1])}).transitions["action"].tolist() == [[0.25, 0.5]] * 3


def test_names_that_do_not_exist_are_named_with_the_local_ones(minari):
    make_minari(minari, "mine-v0")
    with pytest.raises(
        DatasetError, match="nothing-v0 cannot be loaded as a Minari dataset .*local datasets: mine-v0"
    ):
        from_minari({0: "nothing-v0"})
    assert len(from_minari({0: "mine-v0"})) == 15
