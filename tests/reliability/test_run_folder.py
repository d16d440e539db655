"""What users have is kept, whatever happens to a run that replaces another, at every single step of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.config import ExperimentConfig
from ctmrl_torchrl.training.run_folder import RunFolder, check_run_dir, set_aside

KILLED = 9
#: audit events that change the file system
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
FOREIGN = {
    "thesis.txt": "years of work",
    "figures/holiday.png": "a picture",
    "checkpoints/best.pt": "kept by hand",
    "data/set/manifest.json": "a dataset",
    "other-run/summary.json": "another run",
    "other-run/.ctmrl-run.json": "{}",
    "replaced-run/notes.txt": "a folder that happens to have this name",
}
NAMES = ("config.yaml", "metrics.csv", "checkpoints/last.pt", "agent/agent.json", "summary.json")


def config(path, **fields):
    return ExperimentConfig(run_dir=str(path), **fields)


def put(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def carry_out(path, tag, **fields):
    """What a run does to its folder, with ``tag`` as the content of every file."""
    chosen = config(path, **fields)
    folder = RunFolder(check_run_dir(chosen))
    try:
        folder.begin(chosen)
        put(folder.path, {name: tag for name in NAMES[:-1]})
        log = folder.log_folder("log-run")
        events = (f"{log}/events.out.tfevents.1", f"{log}/1795673132.95/events.out.tfevents.1.1")
        put(folder.path, dict.fromkeys(events, tag))
        put(folder.path, {"summary.json": json.dumps(tag)})
        with folder.pictures() as place:
            put(place, {"adaptation.png": tag})
        put(folder.path, {"report.html": tag})
        folder.take(folder.path / "report.html")
        folder.finish()
    finally:
        folder.release()


def contents(folder):
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


def text_of(file):
    return file.read_text() if file.is_file() else None


def whole(folder, tag):
    return all(text_of(folder / name) in (tag, json.dumps(tag)) for name in NAMES)


def a_run_is_whole(run, tags):
    """One of the runs is in one piece; while its files move, in two pieces that the record knows of."""
    places = [run, *(place for place in run.glob("replaced-run*") if place.is_dir())]
    if any(whole(place, tag) for place in places for tag in tags):
        return True
    record = json.loads((run / ".ctmrl-run.json").read_text())
    moved = run / record["kept_in"]
    return record["moving"] and all("old" in (text_of(moved / name) or text_of(run / name)) for name in NAMES)


def kept(folder):
    found = contents(folder)
    return {name: found.get(name) for name in FOREIGN} == FOREIGN


def killed_at(number, action):
    """Carry the action out in a process that ends, without any clean-up, before its change of this number."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event, arguments):
            nonlocal seen
            writes = (
                event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            )
            if event in CHANGES or writes:
                seen += 1
                if seen == number:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_overwriting_killed_at_any_step_loses_nothing(stride, tmp_path, count):
    kills = 0
    for number in range(1, 500, stride):
        run = tmp_path / f"run-{number}"
        put(run, FOREIGN)
        carry_out(run, "old")
        status = killed_at(number, lambda run=run: carry_out(run, "new", overwrite=True))
        assert status in (0, KILLED), number
        assert kept(run) and a_run_is_whole(run, ("old", "new")), number
        carry_out(run, "newer", overwrite=True)
        assert whole(run, "newer") and kept(run), number
        assert text_of(run / "report.html") == "newer", number
        known = {*FOREIGN, *NAMES, ".ctmrl-run.json", "figures/adaptation.png", "report.html"}
        litter = set(contents(run)) - known
        assert {name.split("/")[0].rstrip("-23") for name in litter} == {"log-run"}, (number, litter)
        assert len(list(run.glob("log-run*"))) == len({name.split("/")[0] for name in litter}) == 1, number
        if status == 0:
            break
        kills += 1
    count(f"overwriting: {kills} kills, one at every {stride}. change of the file system, 0 losses")
    assert kills * stride > 60  # a whole overwriting makes more changes than that


@pytest.mark.parametrize("first", [False, True])
def test_a_log_folder_without_a_file_yet_is_removed(first, tmp_path):
    """The run was killed between making the folder, or TensorBoard's folder in it, and the first file."""
    if first:
        carry_out(tmp_path, "old")
    folder = RunFolder(tmp_path)
    folder.begin(config(tmp_path, overwrite=True))
    put(tmp_path, {"config.yaml": "new"})
    (tmp_path / folder.log_folder("log-run") / "1795673132.95").mkdir(parents=True)
    folder.release()
    carry_out(tmp_path, "newer", overwrite=True)
    assert whole(tmp_path, "newer")
    assert [place.name for place in tmp_path.glob("log-run*")] == ["log-run"]


def test_overwriting_goes_on_over_a_second_kill(tmp_path):
    put(tmp_path, FOREIGN)
    carry_out(tmp_path, "old")
    for number in (25, 20, 15, 10, 5):
        assert killed_at(number, lambda: carry_out(tmp_path, "new", overwrite=True)) == KILLED
        assert a_run_is_whole(tmp_path, ("old", "new"))
    carry_out(tmp_path, "newer", overwrite=True)
    assert whole(tmp_path, "newer") and kept(tmp_path) and not whole(tmp_path / "replaced-run-2", "old")


@pytest.mark.parametrize("name", [*NAMES, "agent/agent.safetensors"])
def test_a_users_file_of_a_runs_name_is_not_replaced(name, tmp_path):
    put(tmp_path, {name: "mine"})
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match=r"run_dir: .*(was not written by a run|already holds a run)"):
            carry_out(tmp_path, "new", overwrite=overwrite)
    with pytest.raises(ConfigError, match=name):
        set_aside(tmp_path)
    assert contents(tmp_path) == {name: "mine"}


def test_a_users_picture_is_not_replaced(tmp_path):
    put(tmp_path, {"figures/adaptation.png": "mine"})
    carry_out(tmp_path, "new")
    assert contents(tmp_path)["figures/adaptation.png"] == "mine"
    carry_out(tmp_path, "newer", overwrite=True)
    assert contents(tmp_path)["figures/adaptation.png"] == "mine" and whole(tmp_path, "newer")


def test_links_are_followed_and_stay(tmp_path):
    real, disk, link = tmp_path / "real", tmp_path / "disk", tmp_path / "link"
    real.mkdir(), disk.mkdir()
    link.symlink_to(real)
    (real / "checkpoints").symlink_to(disk)
    carry_out(link, "old")
    carry_out(link, "new", overwrite=True)
    assert link.is_symlink() and (real / "checkpoints").is_symlink() and whole(real, "new")
    assert contents(disk) == {"last.pt": "new"}


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"format_version": 2}',
        '{"format_version": 1, "files": ["../thesis.txt"]}',
        '{"format_version": 1, "files": ["/etc/passwd"]}',
        '{"format_version": 1, "kept": ["a"], "kept_in": ".."}',
        '{"format_version": 1, "files": [1]}',
        '{"format_version": 1, "unknown": []}',
        "[" * 100_000,
    ],
)
def test_a_damaged_record_deletes_nothing(record, tmp_path):
    run = tmp_path / "run"
    put(tmp_path, {"thesis.txt": "years of work", "run/summary.json": "x", "run/.ctmrl-run.json": record})
    before = contents(tmp_path)
    with pytest.raises(ConfigError, match=r"run_dir: the record of written files"):
        carry_out(run, "new", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["figures", "checkpoints", "agent"])
def test_files_in_the_place_of_folders_are_found_before_the_work(name, tmp_path):
    put(tmp_path, {name: "a file"})
    with pytest.raises(ConfigError, match=f"{name} is a file, not a folder"):
        check_run_dir(config(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=f"{name} is a broken link"):
        check_run_dir(config(tmp_path))


@pytest.mark.parametrize(
    "path", ["file/run", "dangling", "dangling/run", "x" * 300, "/".join(["y" * 200] * 20)]
)
def test_places_that_cannot_be_used_are_found_before_the_work(path, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="config field run_dir"):
        check_run_dir(config(tmp_path / path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["dangling", "file"]


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    carry_out("~/runs/a", "new")
    assert whole(tmp_path / "runs" / "a", "new") and not (tmp_path / "~").exists()


def test_two_processes_do_not_share_a_folder(tmp_path):
    code = (
        "import sys, time; from pathlib import Path\n"
        "from ctmrl_torchrl.training.locks import FolderLock\n"
        "lock = FolderLock(Path(sys.argv[1])); print(lock.acquire(), flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "True\n"
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match=f"is in use by process {other.pid} on .* which runs -c"):
                carry_out(tmp_path, "new", overwrite=overwrite)
    finally:
        other.kill()
        other.wait()
    carry_out(tmp_path, "new")  # the lock of a killed process is no obstacle
    assert whole(tmp_path, "new") and not (tmp_path / ".ctmrl-run.lock").exists()


def test_a_worker_that_outlives_its_parent_does_not_keep_the_folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    try:
        folder.release()
        carry_out(tmp_path / "run", "new")
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_a_folder_that_was_made_in_vain_is_taken_away(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b" / ".ctmrl-run.lock").exists()
    folder.release()
    assert not list(tmp_path.iterdir())


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    put(tmp_path, {"thesis.txt": "years of work"})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".ctmrl-run.lock").symlink_to(tmp_path / "thesis.txt")
    with pytest.raises(ConfigError, match="run_dir"):
        carry_out(tmp_path / "run", "new")
    assert Path(tmp_path / "thesis.txt").read_text() == "years of work"
