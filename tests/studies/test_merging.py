"""Runs of two machines in one store."""

from __future__ import annotations

import json
import shutil

import pytest

from ctmrl_torchrl.studies.command import study_command
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.merging import merge_runs
from ctmrl_torchrl.studies.records import RunRecord, locked, run_folder

BOTH = {"factors": {"env": ["point_robot"], "method": ["ctmrl", "focal"], "seed": [0, 1, 2, 3]}}


def seeds(*chosen):
    return {"factors": {**BOTH["factors"], "seed": list(chosen)}}


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_two_machines_share_a_table(make_study, here, tmp_path, log):
    make_study(seeds(0, 1)).run(here, progress=False)
    make_study(seeds(1, 2, 3), root="lent").run(here, progress=False)
    before, trained = contents(tmp_path / "lent"), len(log("end"))
    assert str(merge_runs(tmp_path / "lent", tmp_path / "studies")) == "4 copied, 2 already here"
    assert contents(tmp_path / "lent") == before
    study = make_study(BOTH)
    assert study.run(here, progress=False) == {"done": 8} and len(log("end")) == trained
    assert study.plan().seconds_left == 0.0
    for run, record in ((run, study.record(run)) for run in study.runs):
        other = RunRecord(tmp_path / "lent" / "store", record.key)
        if run.levels["seed"] in ("2", "3"):
            assert record.attempts == other.attempts and contents(record.folder) == contents(other.folder)
    assert str(merge_runs(tmp_path / "lent", tmp_path / "studies")) == "0 copied, 6 already here"


def test_a_store_without_data_reports_what_another_one_has(make_study, here, tmp_path):
    make_study(seeds(0), root="lent").run(here, progress=False)
    assert make_study(seeds(0)).status() == {"waiting": 2}
    merge_runs(tmp_path / "lent", tmp_path / "studies")
    assert make_study(seeds(0)).status() == {"done": 2}


def test_nothing_here_is_replaced(make_study, here, tmp_path):
    there = make_study(seeds(0, 1, 2), root="lent", failing=("seed=2",))
    there.run(here, progress=False)
    study = make_study(seeds(0, 1, 2))
    begun = run_folder(study.store, there.key(there.runs[0]))
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("mine")
    assert str(merge_runs(tmp_path / "lent", tmp_path / "studies")) == (
        "3 copied, 1 begun here, so kept (begun=replace replaces those that nothing works on), "
        "2 not finished there"
    )
    assert (begun / "metrics.csv").read_text() == "mine" and not (begun / "summary.json").exists()


def test_a_begun_run_is_replaced_on_request_unless_a_process_works_on_it(make_study, here, tmp_path):
    there = make_study(seeds(0), root="lent")
    there.run(here, progress=False)
    study = make_study(seeds(0))
    key = there.key(there.runs[0])
    begun = run_folder(study.store, key)
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("mine")
    words = ["merge", str(tmp_path / "lent"), f"root={tmp_path / 'studies'}", "begun=replace"]
    with locked(study.store, key):
        assert study_command(words).startswith("1 copied, 1 begun here")
    assert (begun / "metrics.csv").read_text() == "mine"
    assert study_command(words) == "1 copied, 1 already here"
    assert contents(begun) == contents(run_folder(there.store, key))
    assert not list(begun.parent.glob(".*"))
    with pytest.raises(StudyError, match="begun=replce: write begun=keep or.*Did you mean 'replace'"):
        study_command([*words[:-1], "begun=replce"])


def test_a_run_that_only_failed_here_is_copied(make_study, here, tmp_path):
    make_study(seeds(0), root="lent").run(here, progress=False)
    study = make_study(seeds(0), failing=("method=focal",))
    assert study.run(here, progress=False) == {"done": 1, "failed": 1}
    failed = next(run for run in study.runs if run.levels["method"] == "focal")
    shutil.rmtree(study.record(failed).folder, ignore_errors=True)
    assert str(merge_runs(tmp_path / "lent", tmp_path / "studies")) == "1 copied, 1 already here"
    record = study.record(failed)
    assert record.state() == "done" and [each["state"] for each in record.attempts] == [
        "failed",
        "failed",
        "done",
    ]
    assert record.error and "given_up" not in record.about


def test_a_full_disk_keeps_the_begun_run(make_study, here, tmp_path, monkeypatch):
    there = make_study(seeds(0), root="lent")
    there.run(here, progress=False)
    begun = run_folder(make_study(seeds(0)).store, there.key(there.runs[0]))
    begun.mkdir(parents=True)
    (begun / "metrics.csv").write_text("mine")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ctmrl_torchrl.studies.merging.shutil.copytree", full)
    with pytest.raises(StudyError, match="No space left on device"):
        merge_runs(tmp_path / "lent", tmp_path / "studies", replace_begun=True)
    assert contents(begun) == {(begun / "metrics.csv").relative_to(begun): b"mine"}


def test_a_copied_agent_is_not_trained_again(make_study, here, tmp_path):
    there = make_study(seeds(0), root="lent")
    there.run(here, progress=False)
    for run in there.runs:
        record = there.record(run)
        (record.folder / "checkpoints").mkdir(exist_ok=True)
        (record.folder / "checkpoints" / "last.pt").write_text("weights")
        record.offer(run.training(there.store.name))
    merge_runs(tmp_path / "lent", tmp_path / "studies")
    store = tmp_path / "studies" / "store"
    offers = {file.stem: json.loads(file.read_text())["run"] for file in (store / "trainings").glob("*.json")}
    assert set(offers.values()) == {there.key(run) for run in there.runs}


def test_a_folder_without_runs_and_a_damaged_summary(make_study, here, tmp_path):
    with pytest.raises(StudyError, match="nowhere has no runs of studies"):
        merge_runs(tmp_path / "nowhere", tmp_path / "studies")
    study = make_study(seeds(0), root="lent")
    study.run(here, progress=False)
    with pytest.raises(StudyError, match="is the folder of studies to copy into"):
        merge_runs(tmp_path / "lent", tmp_path / "lent")
    (run_folder(study.store, study.key(study.runs[1])) / "summary.json").write_text("{")
    with pytest.raises(StudyError, match=r"summary\.json.*Nothing was copied"):
        merge_runs(tmp_path / "lent", tmp_path / "studies")
    assert not (tmp_path / "studies").exists()


def test_a_full_disk_leaves_whole_runs(make_study, here, tmp_path, monkeypatch):
    make_study(seeds(0), root="lent").run(here, progress=False)
    copy, copied = shutil.copytree, []

    def full(source, target, *arguments, **options):
        copied.extend([target] if str(target).endswith(".copying") else [])  # not the folders inside
        copy(source, target, *arguments, **options)
        if len(copied) == 2:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", full)
    with pytest.raises(StudyError, match="No space left on device.*Runs copied before are complete"):
        merge_runs(tmp_path / "lent", tmp_path / "studies")
    monkeypatch.undo()
    assert len(list((tmp_path / "studies" / "store" / "runs").iterdir())) == 1
    assert str(merge_runs(tmp_path / "lent", tmp_path / "studies")) == "1 copied, 1 already here"


def test_the_command(make_study, here, tmp_path):
    make_study(seeds(0), root="lent").run(here, progress=False)
    words = ["merge", str(tmp_path / "lent"), f"root={tmp_path / 'studies'}"]
    assert study_command(words) == "2 copied"
    with pytest.raises(StudyError, match="Name one folder of studies"):
        study_command(["merge", f"root={tmp_path / 'studies'}"])
