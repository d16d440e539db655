from __future__ import annotations

import functools
import os
import pickle
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from synthetic_data import even, make_dataset, make_manifest, make_transitions

from ctmrl_torchrl.data import DatasetError, TaskDataset, layout
from ctmrl_torchrl.data import statistics as statistics_module
from ctmrl_torchrl.data.reading import _map_tensor

UNEVEN = [(0, 0, 4), (0, 2, 1), (1, 1, 3), (3, 0, 2), (3, 0, 4), (3, 1, 4)]


def test_trajectory_tables():
    dataset = make_dataset(UNEVEN)
    assert dataset.task_ids.tolist() == [0, 1, 3]
    assert dataset.snapshot_ids.tolist() == [0, 1, 2]
    assert dataset.trajectory_length.tolist() == [4, 1, 3, 2, 4, 4]
    assert dataset.trajectory_start.tolist() == [0, 4, 5, 8, 10, 14]
    assert dataset.trajectory_task.tolist() == [0, 0, 1, 3, 3, 3]
    assert dataset.trajectory_snapshot.tolist() == [0, 2, 1, 0, 0, 1]
    assert len(dataset) == dataset.n_transitions == 18
    assert dataset.n_trajectories == 6
    assert dataset.manifest.counts == {"transitions": 18, "trajectories": 6, "tasks": 3, "snapshots": 3}
    assert "tasks=3" in repr(dataset)


def test_returns_are_sums_over_trajectories():
    dataset = make_dataset(UNEVEN)
    assert dataset.trajectory_returns().tolist() == [0, 0, 3, 6, 12, 12]
    transitions = make_transitions(UNEVEN, 4, sparse=True)
    sparse = TaskDataset.from_tensordict(transitions, make_manifest(UNEVEN, 4))
    assert sparse.trajectory_returns(("next", "sparse_reward")).tolist() == [2, 0, 1, 1, 2, 2]


def test_statistics_are_of_the_given_tasks_only():
    dataset = TaskDataset.from_tensordict(make_transitions(UNEVEN, 4, sparse=True), make_manifest(UNEVEN, 4))
    statistics = dataset.statistics([0, 3])
    assert set(statistics) == {
        "observation",
        "action",
        ("next", "observation"),
        ("next", "reward"),
        ("next", "sparse_reward"),
        "observation_change",
    }
    kept = dataset.transitions[dataset.transitions["task_id"] != 1]
    kept["observation_change"] = kept["next", "observation"] - kept["observation"]
    for key, (mean, std) in statistics.items():
        torch.testing.assert_close(mean, kept[key].mean(0))
        torch.testing.assert_close(std, kept[key].std(0, correction=0))
    everything = dataset.statistics()["observation"][0]
    torch.testing.assert_close(everything, dataset.transitions["observation"].mean(0))


def test_statistics_and_checks_do_not_depend_on_the_blocks_that_are_read(monkeypatch):
    transitions = make_transitions(UNEVEN, 4)
    expected = make_dataset(UNEVEN).statistics()
    small = functools.partial(layout.row_blocks, size=3)
    monkeypatch.setattr(statistics_module, "row_blocks", small)
    monkeypatch.setattr(layout, "row_blocks", small)
    for key, moments in make_dataset(UNEVEN).statistics().items():
        for found, value in zip(moments, expected[key], strict=True):
            torch.testing.assert_close(found, value)
    transitions["next", "reward"][17] = torch.nan
    with pytest.raises(DatasetError, match=r"next\.reward is not finite .*row 17 "):
        TaskDataset.from_tensordict(transitions, make_manifest(UNEVEN, 4))


@given(st.integers(0, 9), st.integers(0, 9), st.integers(1, 5))
def test_blocks_cover_every_row_once(first, count, size):
    blocks = list(layout.row_blocks(first, first + count, size))
    assert [row for block in blocks for row in range(block.start, block.stop)] == list(
        range(first, first + count)
    )
    assert all(block.stop - block.start <= size for block in blocks)


def test_tasks_without_data_are_named():
    dataset = make_dataset(UNEVEN)
    assert dataset.task_index([3, 0]).tolist() == [2, 0]
    with pytest.raises(
        ValueError, match=r"has no data of the tasks \[2, 7\]; it contains the tasks \[0, 1, 3\]"
    ):
        dataset.task_index([7, 0, 2])
    with pytest.raises(ValueError, match="task_ids is empty"):
        dataset.statistics([])


def test_transitions_are_locked_and_the_given_ones_are_not():
    transitions = make_transitions(UNEVEN, 4)
    dataset = TaskDataset.from_tensordict(transitions, make_manifest(UNEVEN, 4))
    with pytest.raises(RuntimeError, match="lock"):
        dataset.transitions.set("extra", torch.zeros(18))
    assert not transitions.is_locked


@pytest.mark.parametrize("verify", ["quick", "full"])
def test_saved_and_loaded_is_the_same(tmp_path, verify):
    dataset = make_dataset(UNEVEN, seeds={"data": 1})
    path = dataset.save(tmp_path / "deep" / "data")
    loaded = TaskDataset.load(path, verify=verify)
    assert (loaded.transitions == dataset.transitions).all()
    assert loaded.path == path
    assert loaded.manifest.replace(checksums={}) == dataset.manifest
    assert {"observation.memmap", "next/reward.memmap", "meta.json"} <= set(loaded.manifest.checksums)
    # memory-mapped, and still a folder that TensorDict itself reads
    assert str(path) in str(loaded.transitions["observation"].filename)
    again = type(loaded.transitions).load_memmap(path / "transitions")
    assert (again == dataset.transitions).all()


def all_dtypes():
    transitions = make_transitions(UNEVEN, 4)
    transitions["flag"] = torch.arange(18) % 2 == 0
    transitions["half"] = torch.arange(18.0).bfloat16().view(18, 1)
    return TaskDataset.from_tensordict(transitions, make_manifest(UNEVEN, 4))


def test_in_place_changes_stay_in_memory(tmp_path):
    dataset = all_dtypes()
    path = dataset.save(tmp_path / "data")
    loaded = TaskDataset.load(path)
    assert (
        loaded.transitions["half"].dtype == torch.bfloat16
        and (loaded.transitions == dataset.transitions).all()
    )
    loaded.transitions["action"].zero_()
    loaded.transitions["flag"].fill_(True)
    loaded.transitions["half"][3:5] = -1
    loaded.transitions[2:6]["next", "reward"].fill_(7)
    loaded.transitions.set_("observation", torch.zeros(18, 2))
    assert not loaded.transitions["action"].any() and not loaded.transitions["observation"].any()
    again = TaskDataset.load(path, verify="full")
    assert (again.transitions == dataset.transitions).all()


@pytest.mark.parametrize("part", [slice(None), slice(2, 6)])
def test_a_pickle_maps_the_files_again_and_changes_none(tmp_path, part):
    dataset = all_dtypes()
    path = dataset.save(tmp_path / "data")
    given = TaskDataset.load(path).transitions[part]
    content = pickle.dumps(given)
    sent = pickle.loads(content)
    assert (sent == dataset.transitions[part]).all() and str(path) in str(sent["half"].filename)
    sent["action"].zero_()
    assert (TaskDataset.load(path, verify="full").transitions == dataset.transitions).all()


def test_a_file_without_numbers_is_mapped_too(tmp_path):
    (tmp_path / "empty").touch()
    assert _map_tensor(tmp_path / "empty", [3, 0], torch.float32).shape == (3, 0)


@pytest.mark.skipif(sys.platform != "linux", reason="sparse files, and how memory is promised")
def test_a_file_may_be_larger_than_memory(tmp_path):
    numel = 2 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
    with open(tmp_path / "large", "wb") as file:
        file.truncate(4 * numel)  # takes no disk space
    mapped = _map_tensor(tmp_path / "large", [numel], torch.float32)
    mapped[-1] = 3.0
    assert mapped[-1] == 3.0 and _map_tensor(tmp_path / "large", [numel], torch.float32)[-1] == 0.0


@pytest.mark.parametrize("key", [("next", "sparse_reward"), "reward", "next"])
def test_a_reward_that_does_not_exist_is_named_with_those_that_do(key):
    transitions = make_transitions(UNEVEN, 4).set(("next", "gain"), torch.zeros(18, 1))
    dataset = TaskDataset.from_tensordict(transitions, make_manifest(UNEVEN, 4))
    message = r"no reward .*{}.*; choose one of \('next', 'gain'\), \('next', 'reward'\)$"
    for act in (dataset.trajectory_returns, lambda key: dataset.statistics([0], return_key=key)):
        with pytest.raises(ValueError, match=message.format(key[-1] if isinstance(key, tuple) else key)):
            act(key)
    assert ("next", "gain") in dataset.statistics([0], return_key=("next", "gain"))


def test_extra_keys_survive(tmp_path):
    transitions = make_transitions(UNEVEN, 4).set("value", torch.arange(18.0))
    TaskDataset.from_tensordict(transitions, make_manifest(UNEVEN, 4)).save(tmp_path / "data")
    assert TaskDataset.load(tmp_path / "data").transitions["value"].tolist() == list(range(18))


def test_unknown_verify_is_refused(tmp_path):
    with pytest.raises(ValueError, match="verify must be"):
        TaskDataset.load(tmp_path, verify="none")


def test_errors_on_loading_name_the_folder_and_the_cure(tmp_path):
    path = make_dataset(UNEVEN).save(tmp_path / "data")
    file = path / "transitions" / "action.memmap"
    torch.from_file(str(file), shared=True, size=2 * 18).view(18, 2)[7, 0] = 3.0
    with pytest.raises(
        DatasetError, match=r"data: action is outside .* row 7 \(task 1\).*restore them from a copy"
    ):
        TaskDataset.load(path)


def test_counts_that_do_not_fit_are_found(tmp_path):
    path = make_dataset(even()).save(tmp_path / "data")
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"trajectories": 60', '"trajectories": 59'))
    with pytest.raises(DatasetError, match="the manifest lists .*59"):
        TaskDataset.load(path)


def test_spreads_are_judged_relative_to_the_numbers():
    """Rewards in small units vary; the steps of a clock, which differ by rounding alone, do not."""
    transitions = make_transitions(even(), 4)
    transitions["next", "reward"] *= 1e-9
    seconds = (torch.arange(len(transitions) + 1, dtype=torch.float64) * 0.05 + 1000).float()
    transitions["observation"][:, 0], transitions["next", "observation"][:, 0] = seconds[:-1], seconds[1:]
    statistics = TaskDataset.from_tensordict(transitions, make_manifest(even(), 4)).statistics()
    assert statistics["next", "reward"][1].item() == pytest.approx(1e-9 * 1.25**0.5, rel=1e-3)
    mean, spread = statistics["observation_change"]
    assert mean[0].item() == pytest.approx(0.05, rel=1e-3)
    assert spread[0] == 0
    assert statistics["observation"][1][0].item() == pytest.approx(240 * 0.05 / 12**0.5, rel=1e-2)


def test_sizes_say_what_a_problem_needs():
    dataset = TaskDataset.from_tensordict(
        make_transitions(UNEVEN, 4, sparse=True), make_manifest(UNEVEN, 4, discount=0.9)
    )
    sizes = dataset.sizes()
    assert (sizes.observation_dim, sizes.action_dim, sizes.horizon, sizes.discount) == (2, 2, 4, 0.9)
    assert sizes.reward_keys == (("next", "reward"), ("next", "sparse_reward"))
    assert sizes.return_key == ("next", "sparse_reward")
    assert make_dataset(UNEVEN).sizes().return_key == ("next", "reward")
    assert make_dataset(UNEVEN).sizes().discount is None
