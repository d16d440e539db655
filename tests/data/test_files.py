from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from synthetic_data import even, make_dataset

from ctmrl_torchrl import storage
from ctmrl_torchrl.data import ContextDraw, DatasetError, TaskDataset, TaskSampler, reading
from ctmrl_torchrl.data import files as dataset_files


@pytest.fixture
def path(tmp_path) -> Path:
    return make_dataset().save(tmp_path / "data")


def siblings(path: Path) -> list[str]:
    return sorted(p.name for p in path.parent.iterdir())


def edit_manifest(path: Path, **changes) -> None:
    file = path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_nothing_but_the_dataset_is_left(path):
    assert siblings(path) == ["data"]
    assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "transitions"]


def test_missing_folder_and_manifest(path, tmp_path):
    with pytest.raises(DatasetError, match="nowhere does not exist"):
        TaskDataset.load(tmp_path / "nowhere")
    (path / "manifest.json").unlink()
    with pytest.raises(DatasetError, match="manifest.json is missing.*give the folder of a dataset"):
        TaskDataset.load(path)


@pytest.mark.parametrize("file", ["meta.json", "action.memmap", "next/terminated.memmap"])
def test_missing_files_are_named(path, file):
    (path / "transitions" / file).unlink()
    with pytest.raises(DatasetError, match=f"transitions/{file} is missing"):
        TaskDataset.load(path, verify="full")
    if file == "meta.json":  # nothing that the data are read from
        assert TaskDataset.load(path).n_transitions == 240
        with pytest.raises(DatasetError, match='verify="quick" loads them'):
            TaskDataset.load(path, verify="full")


def test_a_byte_order_mark_is_no_damage(path):
    text = (path / "manifest.json").read_text(encoding="utf-8")
    (path / "manifest.json").write_text(text, encoding="utf-8-sig")
    assert TaskDataset.load(path, verify="full").n_transitions == 240


@pytest.mark.parametrize("size", [0, 1000, 2000])
def test_truncated_or_longer_files_are_named(path, size):
    os.truncate(path / "transitions" / "next" / "observation.memmap", size)
    with pytest.raises(
        DatasetError, match=rf"next/observation.memmap has {size} bytes, expected 1920 .*truncated"
    ):
        TaskDataset.load(path)


def test_text_that_is_no_text(path):
    (path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DatasetError, match="not a text file"):
        TaskDataset.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"counts": {}}, "counts.transitions or keys is missing"),
        ({"keys": {}}, "counts.transitions or keys is missing"),
        ({"keys": {"../../secret": [[2], "float32"]}}, "is not a valid key"),
        ({"keys": {"observation": [2, "float32"]}}, "keys.observation is"),
        ({"keys": {"observation": [[2], "float99"]}}, "'float99' is not a dtype that a dataset can store"),
        (
            {"keys": {"a": [[2], "qint8"]}},
            "manifest.json: keys: 'qint8' is not a dtype that a dataset can store",
        ),
        ({"counts": {"transitions": 10**400}}, "exceeds"),
        ({"counts": {"transitions": True}}, "counts.transitions is True"),
        ({"keys": {"observation": [[2], "float32"]}}, "lack the keys action"),
    ],
)
def test_manifests_that_do_not_fit_the_files(path, changes, message):
    edit_manifest(path, **changes)
    with pytest.raises(DatasetError, match=message):
        TaskDataset.load(path)


def test_only_full_verification_reads_checksums(path):
    reward = path / "transitions" / "next" / "reward.memmap"
    content = bytearray(reward.read_bytes())
    content[-1] ^= 1  # still a finite number
    reward.write_bytes(content)
    TaskDataset.load(path)
    with pytest.raises(DatasetError, match=r"next/reward.memmap was changed after it was saved \(sha256"):
        TaskDataset.load(path, verify="full")


@pytest.mark.parametrize(
    "junk", [".DS_Store", "._observation.memmap", "notes.txt", "next/.nfs0001", "@eaDir/x", "deeper/x.memmap"]
)
def test_files_that_are_not_the_datasets_do_no_harm(path, junk):
    for place in (path / junk, path / "transitions" / junk):
        place.parent.mkdir(exist_ok=True)
        place.write_text("mine")
    assert TaskDataset.load(path, verify="full").n_transitions == 240
    make_dataset(even(n_tasks=2)).save(path, overwrite=True)
    assert TaskDataset.load(path, verify="full").task_ids.tolist() == [0, 1]
    assert (path / junk).read_text() == (path / "transitions" / junk).read_text() == "mine"
    memory = path / "transitions" / "observation.memmap"
    assert not memory.exists(), "the old dataset's own files are gone"


def test_full_verification_needs_checksums(path):
    edit_manifest(path, checksums={})
    with pytest.raises(DatasetError, match="contains no checksums"):
        TaskDataset.load(path, verify="full")


def test_full_verification_finds_edited_manifests(path):
    tasks = json.loads((path / "manifest.json").read_text())["tasks"]
    tasks["parameters"][0][0] = 7.0
    edit_manifest(path, tasks=tasks)
    assert TaskDataset.load(path).manifest.tasks["parameters"][0][0] == 7.0
    with pytest.raises(DatasetError, match=r"manifest.json was changed after it was saved.*save the dataset"):
        TaskDataset.load(path, verify="full")
    TaskDataset.load(path).save(path, overwrite=True)
    assert TaskDataset.load(path, verify="full").manifest.tasks["parameters"][0][0] == 7.0


def test_existing_data_are_replaced_only_when_asked(path):
    with pytest.raises(DatasetError, match="already exists; pass overwrite=True"):
        make_dataset().save(path)
    make_dataset(even(n_tasks=2)).save(path, overwrite=True)
    assert TaskDataset.load(path, verify="full").task_ids.tolist() == [0, 1]
    assert siblings(path) == ["data"]


def test_a_loaded_dataset_can_be_saved_over_itself(path):
    TaskDataset.load(path).save(path, overwrite=True)
    assert TaskDataset.load(path, verify="full").n_transitions == 240


def test_other_peoples_files_are_never_replaced(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DatasetError, match="not a folder"):
        make_dataset().save(tmp_path / "file", overwrite=True)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("mine")
    with pytest.raises(DatasetError, match="not a dataset and is not replaced"):
        make_dataset().save(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "mine"


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_while_writing_leaves_what_was_there(tmp_path, monkeypatch, existing):
    path = tmp_path / "data"
    if existing:
        make_dataset(even(n_tasks=2)).save(path)
    write = dataset_files._write_tensor

    def write_a_little_then_fail(file, value):
        if file.name == "reward.memmap":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, value)

    monkeypatch.setattr(dataset_files, "_write_tensor", write_a_little_then_fail)
    with pytest.raises(DatasetError, match=r"data.* could not be written: the disk at /.* is full"):
        make_dataset().save(path, overwrite=True)
    assert siblings(path) == (["data"] if existing else [])
    if existing:
        assert sorted(p.name for p in path.iterdir()) == ["manifest.json", "transitions"]
        assert TaskDataset.load(path, verify="full").task_ids.tolist() == [0, 1]


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda place: SimpleNamespace(free=10))
    with pytest.raises(DatasetError, match=r"data needs 13.2 kB, but the disk at /.* has 10 bytes free"):
        make_dataset().save(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


STEPS = ("mkdir", "open", "write", "fsync", "replace", "rename", "unlink", "rmdir")


def save_and_die(dataset, path: Path, step: int) -> bool:
    """Save in a child process that is gone at its ``step``-th change of the disk; whether it finished."""
    child = os.fork()
    if child == 0:
        left = [step]

        def mortal(act):
            def wrapper(*args, **kwargs):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)
                return act(*args, **kwargs)

            return wrapper

        for name in STEPS:
            setattr(os, name, mortal(getattr(os, name)))
        dataset.save(path, overwrite=True)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("existing", [False, True, "empty"])
@pytest.mark.parametrize("every", [13, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_step_and_repeated_one_whole_dataset_remains(tmp_path, existing, every):
    old, new, repeated = make_dataset(even(n_tasks=2)), make_dataset(even(n_tasks=3)), make_dataset()
    finished, step = False, 0
    while not finished:
        path = tmp_path / str(step) / "data"
        path.parent.mkdir()
        if existing == "empty":
            path.mkdir()
        elif existing:
            old.save(path)
        finished = save_and_die(new, path, step)
        if existing is True or finished:
            assert TaskDataset.load(path, verify="full").task_ids.numel() in ((3,) if finished else (2, 3))
        repeated.save(path, overwrite=True)
        assert TaskDataset.load(path, verify="full").n_transitions == 240
        assert siblings(path) == ["data"]
        assert len(list(path.iterdir())) == 2, "a manifest and one folder of tensors"
        step += every
    assert step > 40


def test_a_link_stays_and_the_data_behind_it_are_replaced(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "project").mkdir()
    make_dataset(even(n_tasks=2)).save(tmp_path / "disk" / "set")
    link = tmp_path / "project" / "set"
    link.symlink_to(tmp_path / "disk" / "set")
    assert make_dataset().save(link, overwrite=True) == link
    assert link.is_symlink()
    assert TaskDataset.load(tmp_path / "disk" / "set", verify="full").n_transitions == 240
    assert os.listdir(tmp_path / "project") == os.listdir(tmp_path / "disk") == ["set"]


def test_what_links_inside_a_dataset_lead_to_is_never_deleted(tmp_path):
    """A dataset that shares its tensors, or its manifest, with another one by links."""
    original = make_dataset().save(tmp_path / "original")
    for shared in ("transitions", "manifest.json"):
        other = tmp_path / f"shares_{shared}"
        other.mkdir()
        for name in ("transitions", "manifest.json"):
            if name == shared:
                (other / name).symlink_to(original / name)
            elif name == "transitions":
                shutil.copytree(original / name, other / name)
            else:
                shutil.copy(original / name, other / name)
        make_dataset(even(n_tasks=2)).save(other, overwrite=True)
        assert TaskDataset.load(other, verify="full").task_ids.tolist() == [0, 1]
        assert TaskDataset.load(original, verify="full").n_transitions == 240


def test_folders_with_a_manifest_of_another_kind_are_not_replaced(tmp_path):
    (tmp_path / "extension").mkdir()
    (tmp_path / "extension" / "manifest.json").write_text('{"name": "a browser extension"}')
    with pytest.raises(DatasetError, match="is not replaced, because its manifest.json cannot be read"):
        make_dataset().save(tmp_path / "extension", overwrite=True)
    assert siblings(tmp_path / "extension" / "manifest.json") == ["manifest.json"]


def test_two_writers_of_one_new_folder(tmp_path, monkeypatch):
    write = dataset_files._write_tensors

    def overtaken(folder, *args):
        if not (tmp_path / "data").exists():
            monkeypatch.setattr(dataset_files, "_write_tensors", write)
            make_dataset(even(n_tasks=2)).save(tmp_path / "data")
        return write(folder, *args)

    monkeypatch.setattr(dataset_files, "_write_tensors", overtaken)
    with pytest.raises(DatasetError, match="created by another process in the meantime"):
        make_dataset().save(tmp_path / "data")
    assert siblings(tmp_path / "data") == ["data"]
    assert TaskDataset.load(tmp_path / "data", verify="full").task_ids.tolist() == [0, 1]


def test_reading_while_the_dataset_is_replaced(path, monkeypatch):
    map_tensors, calls = reading._map_tensors, []

    def replaced_first(*args):
        calls.append(args)
        if len(calls) == 1:
            make_dataset(even(n_tasks=2)).save(path, overwrite=True)
        return map_tensors(*args)

    monkeypatch.setattr(reading, "_map_tensors", replaced_first)
    assert TaskDataset.load(path).task_ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "path is empty"),
        ("~no_such_user/x", "home folder"),
        ("x" * 300, "allow 255"),
        (None, "a path"),
    ],
)
def test_places_that_cannot_be_used_are_dataset_errors(name, message):
    with pytest.raises(DatasetError, match=message):
        make_dataset().save(name)
    if name != "x" * 300:
        with pytest.raises(DatasetError, match=message):
            TaskDataset.load(name)


def test_home_is_understood_in_both_directions(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_dataset().save("~/sets/x") == tmp_path / "sets" / "x"
    assert TaskDataset.load("~/sets/x").path == tmp_path / "sets" / "x"


@pytest.mark.parametrize("verify", ["quick", "full"])
def test_other_default_devices_and_dtypes_change_nothing(path, verify):
    draw = ContextDraw(trajectories=(1, 2))

    def everything():
        dataset = TaskDataset.load(path, verify=verify)
        sampler = TaskSampler(
            dataset, task_ids=[0, 3], tasks_per_batch=2, transitions_per_task=3, context=draw
        )
        batch = dataset.replay_buffer(sampler, generator=torch.Generator("cpu").manual_seed(0)).sample()
        built = make_dataset()
        return batch, dataset.statistics(), dataset.trajectory_returns(), built.transitions

    expected, before = everything(), torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        with torch.device("meta"):
            dataset = TaskDataset.load(path, verify=verify)
            statistics = dataset.statistics([0, 3])
            sampler = TaskSampler(
                dataset, task_ids=[0, 3], tasks_per_batch=2, transitions_per_task=3, context=draw
            )
            buffer = dataset.replay_buffer(sampler, generator=torch.Generator("cpu").manual_seed(0))
            batch, returns = buffer.sample(), dataset.trajectory_returns()
    finally:
        torch.set_default_dtype(before)
    assert (batch == expected[0]).all()
    assert torch.equal(returns, expected[2]) and returns.dtype == torch.float32
    assert statistics["action"][0].dtype == torch.float32
    assert dataset.transitions.device in (None, torch.device("cpu"))
