from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from synthetic_data import even, make_dataset
from tensordict import TensorDict

from ctmrl_torchrl.data import DatasetError, TaskDataset
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
    with pytest.raises(DatasetError, match="nowhere: no dataset here"):
        TaskDataset.load(tmp_path / "nowhere")
    (path / "manifest.json").unlink()
    with pytest.raises(
        DatasetError, match="manifest.json: missing.*Nothing was changed; name the folder of a dataset"
    ):
        TaskDataset.load(path)


@pytest.mark.parametrize("file", ["meta.json", "action.memmap", "next/terminated.memmap"])
def test_missing_files_are_named(path, file):
    (path / "transitions" / file).unlink()
    with pytest.raises(DatasetError, match=f"transitions/{file}: missing"):
        TaskDataset.load(path)


@pytest.mark.parametrize("size", [0, 1000, 2000])
def test_truncated_or_longer_files_are_named(path, size):
    os.truncate(path / "transitions" / "next" / "observation.memmap", size)
    with pytest.raises(
        DatasetError, match=rf"next/observation.memmap: has {size} bytes, expected 1920 .*cut off"
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
        ({"keys": {"../../secret": [[2], "float32"]}}, "is not a key name"),
        ({"keys": {"observation": [2, "float32"]}}, "keys.observation is"),
        ({"keys": {"observation": [[2], "float99"]}}, "'float99' is not a torch dtype"),
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
    with pytest.raises(DatasetError, match=r"next/reward.memmap: its content is not what was saved \(sha256"):
        TaskDataset.load(path, verify="full")


def test_full_verification_finds_foreign_files_and_missing_checksums(path):
    (path / "transitions" / "notes.txt").write_text("mine")
    with pytest.raises(DatasetError, match="notes.txt: not part of the dataset"):
        TaskDataset.load(path, verify="full")
    edit_manifest(path, checksums={})
    with pytest.raises(DatasetError, match="has no checksums"):
        TaskDataset.load(path, verify="full")


def test_existing_data_are_replaced_only_when_asked(path):
    with pytest.raises(DatasetError, match="exists already; pass overwrite=True"):
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

    def write_a_little_then_fail(self, prefix, **kwargs):
        Path(prefix).mkdir()
        (Path(prefix) / "observation.memmap").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(TensorDict, "memmap", write_a_little_then_fail)
    with pytest.raises(OSError, match="No space left"):
        make_dataset().save(path, overwrite=True)
    assert siblings(path) == (["data"] if existing else [])
    if existing:
        assert TaskDataset.load(path, verify="full").task_ids.tolist() == [0, 1]


def test_a_failure_of_the_last_rename_restores_the_old_dataset(path, monkeypatch):
    rename = os.replace

    def fail_on_the_new_folder(source, target):
        if ".tmp-" in str(source):
            raise OSError("simulated")
        rename(source, target)

    monkeypatch.setattr(dataset_files.os, "replace", fail_on_the_new_folder)
    with pytest.raises(OSError, match="simulated"):
        make_dataset(even(n_tasks=2)).save(path, overwrite=True)
    assert siblings(path) == ["data"]
    assert TaskDataset.load(path, verify="full").task_ids.tolist() == [0, 1, 2, 3]
