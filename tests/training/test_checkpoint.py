from __future__ import annotations

import pickle
import random
import zipfile

import pytest
import torch

from ctmrl_torchrl.sealed import save_sealed
from ctmrl_torchrl.training.checkpoint import (
    CheckpointError,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
)

STATE = {
    "update": 3,
    "weights": torch.arange(3.0),
    "parts": {"codebook": {"collected": [torch.ones(2)]}, "other": {}},
}
IDENTITY = {"env": "point_robot", "seed": 0}


@pytest.fixture
def file(tmp_path):
    save_checkpoint(tmp_path / "run" / "checkpoints" / "last.pt", STATE, IDENTITY)
    return tmp_path / "run" / "checkpoints" / "last.pt"


def test_round_trip(file):
    state = load_checkpoint(file, IDENTITY)
    assert state["update"] == 3 and torch.equal(state["weights"], STATE["weights"])
    assert [path.name for path in file.parent.iterdir()] == ["last.pt"]


def test_found_by_file_folder_or_run(file):
    for path in (file, file.parent, file.parent.parent, str(file)):
        assert find_checkpoint(path) == file
    with pytest.raises(CheckpointError, match="resume=.*nowhere does not lead to a checkpoint; looked for"):
        find_checkpoint(file.parent / "nowhere")


def test_identity_must_agree(file):
    with pytest.raises(CheckpointError, match="written with env='point_robot', but this run has env='ant'"):
        load_checkpoint(file, {**IDENTITY, "env": "ant"})


def test_a_failed_save_leaves_the_old_file_and_no_litter(file, monkeypatch):
    before = file.read_bytes()

    def failing(content, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", failing)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(file, STATE, IDENTITY)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["last.pt"]


def unreadable_files():
    source = random.Random(0)
    yield "empty", b""
    yield "text", b"step,name,value\n1,a,2\n"
    yield "image", b"\x89PNG\r\n\x1a\n" + bytes(100)
    yield "code", pickle.dumps(random.Random)
    for number in range(60):  # anything at all, also what begins like a pickle
        yield f"random{number}", (b"\x80\x02" if number % 2 else b"") + source.randbytes(1 + number * 7)


def test_anything_else_is_refused_and_left_alone(tmp_path):
    for name, content in unreadable_files():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=f"{name} is not a"):
            load_checkpoint(path, IDENTITY)
        assert path.read_bytes() == content


@pytest.mark.parametrize("content", [{"state": {}}, [1, 2], {"format_version": 99}, {"format_version": 2}])
def test_other_files_of_tensors_are_refused(tmp_path, content):
    save_sealed(tmp_path / "other.pt", content)
    with pytest.raises(CheckpointError, match="other.pt is not a checkpoint of format version 2"):
        load_checkpoint(tmp_path / "other.pt", IDENTITY)


def test_a_checkpoint_without_its_checksum_is_refused(tmp_path):
    content = {"format_version": 2, "identity": IDENTITY, "state": STATE}
    torch.save(content, tmp_path / "bare.pt")
    with pytest.raises(CheckpointError, match="bare.pt is not a readable checkpoint .it has no checksum"):
        load_checkpoint(tmp_path / "bare.pt", IDENTITY)


def test_the_file_is_a_plain_archive_with_a_comment(file):
    with zipfile.ZipFile(file) as archive:
        assert archive.comment.startswith(b"ctmrl checkpoint, sha256 ") and archive.testzip() is None
    assert torch.load(file, weights_only=True)["state"]["update"] == 3


def test_no_flipped_bit_is_accepted(file):
    content = file.read_bytes()
    source = random.Random(1)
    for _ in range(200):
        place = source.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << source.randrange(8)
        file.write_bytes(changed)
        with pytest.raises(CheckpointError, match="last.pt is not a"):
            load_checkpoint(file, IDENTITY)
    file.write_bytes(content)
    assert load_checkpoint(file, IDENTITY)["update"] == 3


def test_every_part_of_the_identity_must_be_there(file):
    with pytest.raises(CheckpointError, match="does not record the tasks it was written with"):
        load_checkpoint(file, {**IDENTITY, "tasks": "repo"})


def test_home_is_expanded_and_a_hopeless_path_is_refused(file, monkeypatch):
    monkeypatch.setenv("HOME", str(file.parents[2]))
    assert find_checkpoint("~/run") == file
    for path in ("x" * 300, ""):
        with pytest.raises(CheckpointError, match="resume="):
            find_checkpoint(path)
