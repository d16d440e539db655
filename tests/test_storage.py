from __future__ import annotations

import doctest
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ctmrl_torchrl import storage
from ctmrl_torchrl.sealed import save_sealed
from ctmrl_torchrl.storage import StorageError


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def names(folder: Path) -> list[str]:
    return sorted(place.name for place in folder.iterdir())


def test_home_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.expanded("~/sets/x") == tmp_path / "sets" / "x"
    assert storage.resolved("~/sets/x") == tmp_path.resolve() / "sets" / "x"
    assert storage.expanded("./~") == Path("./~")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "the path is empty"),
        ("  ", "the path is empty"),
        ("~nobody_of_this_name/x", "home folder of '~nobody_of_this_name' is unknown"),
        ("a\0b", "null byte"),
        (None, "expected a path, got NoneType"),
        (3, "expected a path, got int"),
        (b"bytes", "expected a path as text"),
    ],
)
def test_what_is_no_path_is_refused(path, message):
    with pytest.raises(StorageError, match=message):
        storage.expanded(path)
    with pytest.raises(StorageError, match=message):
        storage.resolved(path)


def test_places_that_cannot_be_written_are_refused_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file is a file, not a folder"):
        storage.resolved(tmp_path / "file" / "deep" / "set")
    with pytest.raises(StorageError, match=r"has 300 bytes; most file systems allow 255"):
        storage.resolved(tmp_path / ("x" * 300))
    with pytest.raises(StorageError, match=r"File name too long"):
        storage.resolved(tmp_path / "/".join(["x" * 200] * 30))
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for path in (tmp_path / "dangling", tmp_path / "dangling" / "set"):
        with pytest.raises(StorageError, match=r"dangling is a broken link to .*nowhere"):
            storage.resolved(path)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    with pytest.raises(StorageError):
        storage.resolved(tmp_path / "circle" / "set")
    assert names(tmp_path) == ["circle", "dangling", "file"]


def test_read_only_folders_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(storage.os, "access", lambda place, mode: place != tmp_path.resolve())
    with pytest.raises(StorageError, match="is not writable"):
        storage.resolved(tmp_path / "new" / "set")


def test_links_are_resolved_in_every_part(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assert storage.resolved(tmp_path / "link" / "set") == tmp_path.resolve() / "disk" / "set"
    assert storage.resolved(tmp_path / "link" / ".." / "set") == tmp_path.resolve() / "set"


def test_a_file_is_written_whole_and_keeps_its_link_and_mode(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "notes").write_text("old")
    (tmp_path / "disk" / "notes").chmod(0o640)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "notes")
    storage.atomic_write_text(tmp_path / "link", "größer")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "disk" / "notes").read_text(encoding="utf-8") == "größer"
    assert (tmp_path / "disk" / "notes").stat().st_mode & 0o777 == 0o640
    assert names(tmp_path) == ["disk", "link"]
    assert names(tmp_path / "disk") == ["notes"]


def test_new_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        storage.atomic_write_bytes(tmp_path / "new", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_a_failure_leaves_the_old_file_and_no_litter(tmp_path):
    (tmp_path / "notes").write_text("old")
    with pytest.raises(RuntimeError), storage.atomic_write(tmp_path / "notes") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "notes").read_text() == "old"
    assert names(tmp_path) == ["notes"]
    with pytest.raises(StorageError, match="is a folder"):
        storage.atomic_write_text(tmp_path, "x")


def test_what_lies_under_a_new_name_is_never_opened(tmp_path):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "trap").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError), storage.new_file(tmp_path / "trap"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_temporary_names_cannot_be_guessed_and_are_not_too_long(tmp_path):
    first, second = storage.temporary_path(tmp_path / "set"), storage.temporary_path(tmp_path / "set")
    assert first != second
    assert first.name.startswith(f"set.tmp-{os.getpid()}-")
    assert len(os.fsencode(storage.temporary_path(tmp_path / ("ä" * 127)).name)) <= 255
    storage.atomic_write_text(tmp_path / ("ä" * 127), "x")


def test_leftovers_of_dead_processes_are_cleared_and_nothing_else(tmp_path):
    dead = dead_process()
    mine = storage.temporary_path(tmp_path / "set")
    killed = tmp_path / mine.name.replace(f"tmp-{os.getpid()}", f"tmp-{dead}")
    elsewhere = tmp_path / f"set.tmp-{dead}-00000000-01234567"
    for file in (mine, killed, elsewhere, tmp_path / f"set.tmp-{dead}", tmp_path / f"other.tmp-{dead}"):
        file.write_text("half")
    (tmp_path / f"set.tmp-{dead}.txt").write_text("a user's")
    assert storage.owned_by_dead_process(killed)
    assert not storage.owned_by_dead_process(mine)
    assert not storage.owned_by_dead_process(elsewhere), "another machine's process cannot be looked up here"
    assert set(storage.clear_leftovers(tmp_path / "set")) == {killed, tmp_path / f"set.tmp-{dead}"}
    kept = [mine.name, elsewhere.name, f"other.tmp-{dead}", f"set.tmp-{dead}.txt"]
    assert names(tmp_path) == sorted(kept)
    storage.atomic_write_text(tmp_path / "other", "x")
    assert f"other.tmp-{dead}" not in names(tmp_path)


def test_folders_are_cleared_only_if_the_library_wrote_them(tmp_path):
    folder = tmp_path / f"set.tmp-{dead_process()}"
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    assert storage.clear_leftovers(tmp_path / "set") == []
    assert storage.clear_leftovers(tmp_path / "set", ours=lambda place: False) == []
    assert storage.clear_leftovers(tmp_path / "set", ours=lambda place: True) == [folder]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with storage.new_folder(tmp_path / "set") as temporary:
        (temporary / "a").write_text("x")
        assert not (tmp_path / "set").exists()
    assert names(tmp_path) == ["set"]
    with pytest.raises(RuntimeError), storage.new_folder(tmp_path / "other"):
        raise RuntimeError
    made = pytest.raises(StorageError, match="created by another process in the meantime")
    with made, storage.new_folder(tmp_path / "set"):
        pass
    assert names(tmp_path) == ["set"]
    assert names(tmp_path / "set") == ["a"]


def test_full_disks_are_named(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match=r"set needs 1e\+09 TB, but the disk at / has|the disk at /"):
        storage.require_space(tmp_path / "set", 10**21)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage.os, "posix_fallocate", full)
    message = rf"{tmp_path}/new could not be written: the disk at /.* is full"
    with pytest.raises(StorageError, match=message), storage.new_file(tmp_path / "new", 100):
        pass


@pytest.fixture
def calls(monkeypatch):
    """What was written to the disk and what was renamed, in this order; files as (inode, size)."""
    made = []
    fsync, replace, rename = os.fsync, os.replace, os.rename

    def known(place):
        found = os.stat(place)
        return found.st_ino, None if os.path.isdir(place) else found.st_size

    def synced(descriptor):
        made.append(("sync", known(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def renamed(act):
        def moving(source, target):
            made.append(("rename", known(source)))
            act(source, target)

        return moving

    monkeypatch.setattr(storage.os, "fsync", synced)
    monkeypatch.setattr(storage.os, "replace", renamed(replace))
    monkeypatch.setattr(storage.os, "rename", renamed(rename))
    return made, known


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="looks open files up in /proc")


@needs_proc
def test_content_is_on_the_disk_before_it_has_its_name(tmp_path, calls):
    """A power failure after the rename would otherwise leave an empty file of the right name."""
    made, known = calls
    writers = [
        lambda path: storage.atomic_write_bytes(path, b"x" * 1000),
        lambda path: save_sealed(path, {"step": 3}),
    ]
    for number, write in enumerate(writers):
        made.clear()
        write(tmp_path / str(number))
        whole = known(tmp_path / str(number))
        moved = made.index(("rename", whole))
        assert ("sync", whole) in made[:moved], "the content, as it is in the end"
        assert ("sync", known(tmp_path)) in made[moved:], "the name"


@needs_proc
def test_a_folders_files_are_on_the_disk_before_it_has_its_name(tmp_path, calls):
    made, known = calls
    with storage.new_folder(tmp_path / "set") as temporary, storage.new_file(temporary / "a", 10) as file:
        os.write(file, b"x" * 10)
    moved = made.index(("rename", known(tmp_path / "set")))
    assert {("sync", known(tmp_path / "set" / "a")), ("sync", known(tmp_path / "set"))} <= set(made[:moved])
    assert ("sync", known(tmp_path)) in made[moved:]


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs Linux namespaces for a disk of its own")
def test_a_disk_that_is_really_full(tmp_path):
    code = f"""
from ctmrl_torchrl.storage import StorageError, atomic_write_bytes, new_file
from pathlib import Path
import os
place = Path({str(tmp_path)!r})
for write in (lambda: atomic_write_bytes(place / "a", b"x" * 2_000_000),
              lambda: new_file(place / "b", 2_000_000).__enter__()):
    try: write()
    except StorageError as error: print(str(place) in str(error) and "is full" in str(error))
print(os.listdir(place))
"""
    mount = f'mount -t tmpfs -o size=500k tmpfs {tmp_path} && exec {sys.executable} -c "$0"'
    found = subprocess.run(["unshare", "-rm", "sh", "-c", mount, code], capture_output=True, text=True)
    if "mount" in found.stderr or "unshare" in found.stderr:
        pytest.skip("no private mount here")
    assert found.stdout.splitlines() == ["True", "True", "[]"], found.stderr


def test_the_examples_run():
    assert doctest.testmod(storage).failed == 0
