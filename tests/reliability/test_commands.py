"""The commands beside training: places, other people's files, and mistakes are named before the work."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
from tiny_experiments import random_dataset

from ctmrl_torchrl import storage
from ctmrl_torchrl.cli import main
from ctmrl_torchrl.data import DatasetError, TaskDataset
from ctmrl_torchrl.envs import make_task_set
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training import data_report
from ctmrl_torchrl.training.build import resolve_device
from ctmrl_torchrl.training.data_report import write_data_report

#: places whose names no system can look up
PLACES = ["~nobody-of-this-name/x", "x" * 300, "y/" * 3000]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "command",
    [
        ["table", "{}"],
        ["collect", "dataset.root={}"],
        ["collect", "dataset.path={}"],
        ["train", "run_dir={}"],
        ["train", "resume={}"],
        ["train", "dataset.root={}"],
        ["train", "dataset.path={}"],
        ["study", "plan", "quick", "root={}"],
        ["study", "plan", "{}"],
        ["--plugin", "{}.py", "train"],
    ],
    ids=" ".join,
)
def test_places_that_cannot_be_looked_up_are_named(command, place, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [part.format(place) for part in command]
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = ended.code
    told = capsys.readouterr().err.strip()
    assert status == 2 and 1 <= len(told.splitlines()) <= 2 and "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dataset(tmp_path):
    data = random_dataset(make_task_set("point_robot"))
    return TaskDataset.load(data.save(tmp_path / "data"))


def test_a_users_picture_beside_a_report_is_not_replaced(dataset):
    picture = dataset.path / "returns.png"
    write_data_report(dataset, dataset.path)
    write_data_report(dataset, dataset.path)  # its own picture is replaced
    picture.write_text("mine")
    with pytest.raises(DatasetError, match="returns.png was not written with a report"):
        write_data_report(dataset, dataset.path)
    assert picture.read_text() == "mine"


def test_a_report_whose_picture_could_not_be_drawn_owns_none(dataset, monkeypatch):
    def fail(*args):
        raise RuntimeError("no LaTeX")

    monkeypatch.setattr(data_report, "draw_data", fail)
    write_data_report(dataset, dataset.path)
    picture = dataset.path / "returns.png"
    assert not picture.exists()
    picture.write_text("mine")
    with pytest.raises(DatasetError, match="returns.png was not written with a report"):
        write_data_report(dataset, dataset.path)


def test_a_report_killed_before_its_picture_can_be_repeated(dataset, monkeypatch):
    write_data_report(dataset, dataset.path)
    monkeypatch.setattr(storage, "atomic_write_bytes", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_data_report(dataset, dataset.path, "another command")
    monkeypatch.undo()
    write_data_report(dataset, dataset.path)


def test_a_report_of_an_earlier_version_is_replaced(dataset):
    write_data_report(dataset, dataset.path)
    file = dataset.path / "report.json"
    report = json.loads(file.read_text())
    del report["pictures"]
    file.write_text(json.dumps(report))
    (dataset.path / "returns.png").write_bytes(b"drawn by an earlier version")
    write_data_report(dataset, dataset.path)


@pytest.mark.parametrize("command", ["train", "collect"])
def test_data_that_may_not_be_read_are_named(command, capsys, monkeypatch, tmp_path):
    stat = Path.stat

    def refuse(self, **options):
        if self.name == "manifest.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return stat(self, **options)

    (tmp_path / "data").mkdir()
    monkeypatch.setattr(Path, "stat", refuse)
    assert (
        main([command, "preset=smoke", f"dataset.path={tmp_path / 'data'}", f"run_dir={tmp_path / 'run'}"])
        == 2
    )
    assert "manifest.json cannot be read (Permission denied)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_report_that_cannot_be_written_is_refused_before_the_data_are_read(capsys, monkeypatch, tmp_path):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(os, "access", lambda *args, **options: False)
    assert main(["collect", f"dataset.path={tmp_path / 'data'}"]) == 2
    assert "is not writable" in capsys.readouterr().err


def test_a_file_in_the_place_of_a_dataset_is_said_to_be_one(tmp_path):
    (tmp_path / "data").touch()
    with pytest.raises(DatasetError, match="is a file, not a folder"):
        TaskDataset.load(tmp_path / "data")


@pytest.mark.parametrize("name", ["cpu:0", "cpu:7"])
def test_the_cpu_has_no_number(name):
    """torch accepts any, but simulations and specs would be on another device than the networks."""
    with pytest.raises(ConfigError, match="the CPU is one device"):
        resolve_device(name)


def test_a_job_twice_in_a_sweep_is_named(capsys):
    assert main(["train", "-m", "seed=0,0", "run_dir='runs/${seed}'"]) == 2
    assert "seed=0 run_dir='runs/${seed}': this job occurs twice" in capsys.readouterr().err


def test_overrides_may_stand_around_options(capsys):
    assert main(["train", "preset=smoke", "--cfg", "job", "seed=3"]) == 0
    printed = capsys.readouterr().out
    assert "preset: smoke" in printed and "seed: 3\n" in printed
