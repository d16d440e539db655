"""Data at a path of the user's: changed data, and others in another folder, are other data."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from fakes import FakeRun, resolve

from ctmrl_torchrl.studies.config import study_from
from ctmrl_torchrl.studies.identity import data_key
from ctmrl_torchrl.studies.study import Study

CONTENT = {
    "name": "given",
    "factors": {"method": ["ctmrl", "focal"], "seed": [0]},
    "fixed": ["dataset.path=set"],
    "protocols": ["np"],
}


def content_of(overrides):
    path = Path(resolve(overrides)["dataset"]["path"].strip("'"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(path.iterdir()))).hexdigest()


@pytest.fixture
def study(tmp_path):
    def make():
        run = FakeRun(str(tmp_path / "log"))
        return Study(
            study_from(CONTENT), tmp_path / "studies", resolve=resolve, prepare=content_of, execute=run
        )

    return make


def data_set(folder, text):
    (folder / "set").mkdir(parents=True, exist_ok=True)
    (folder / "set" / "rewards").write_text(text)


def test_changed_data_make_other_runs(study, here, tmp_path, log, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path, "one")
    assert study().run(here, progress=False) == {"done": 2}
    assert study().states() == ["done", "done"]
    data_set(tmp_path, "another")
    assert study().states() == ["waiting", "waiting"]
    assert study().run(here, progress=False) == {"done": 2} and len(log("start")) == 4
    data_set(tmp_path, "one")  # the first data again: their runs are there
    study().run(here, progress=False)
    assert study().states() == ["done", "done"] and len(log("start")) == 4


def test_the_same_relative_path_in_another_folder_is_another_set(study, here, tmp_path, log, monkeypatch):
    for name in ("a", "b"):
        data_set(tmp_path / name, name)
        monkeypatch.chdir(tmp_path / name)
        assert study().states() == ["waiting", "waiting"]
        study().run(here, progress=False)
    assert len(log("start")) == 4
    monkeypatch.chdir(tmp_path / "a")
    assert study().states() == ["done", "done"]


def test_a_touched_file_costs_a_look_and_no_training(study, here, tmp_path, log, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data_set(tmp_path, "one")
    study().run(here, progress=False)
    os.utime(tmp_path / "set" / "rewards", (1, 1))
    study().run(here, progress=False)
    assert len(log("start")) == 2


def test_keys_of_paths_that_lead_nowhere(tmp_path):
    missing = [{"env": "a", "dataset": {"path": str(tmp_path / name)}} for name in ("x", "y")]
    assert data_key(missing[0]) != data_key(missing[1])
