"""Where a study writes: nothing of anybody else's is replaced, and what cannot be written is found first."""

from __future__ import annotations

import json

import pytest
from study_content import CONTENT

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.storage import StorageError
from ctmrl_torchrl.studies.command import study_command
from ctmrl_torchrl.studies.config import study_from
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import write_text
from ctmrl_torchrl.studies.page import write_run_page
from ctmrl_torchrl.studies.study import Study


@pytest.mark.parametrize("name", ["report.html", "tables.md", "results.json", "figures"])
def test_a_users_file_in_the_reports_place_is_found_before_the_runs(name, make_study, here, log, tmp_path):
    study = make_study()
    folder = study.root / study.config.name
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    with pytest.raises(StudyError, match=f"{name} was not written with a report and is not replaced"):
        study.run(here, progress=False)
    assert (folder / name).read_text() == "mine" and log("run") == []


@pytest.mark.ci
def test_a_users_file_beside_a_report_stays(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    page = study.report()
    (page.parent / "notes.txt").write_text("mine")
    written = json.loads((page.parent / "results.json").read_text())["files"]
    assert set(written) >= {"report.html", "tables.md", "results.json"}
    (page.parent / "results.json").write_text(
        json.dumps({"study": {}, "runs": [], "files": ["results.json"]})
    )
    with pytest.raises(StudyError, match="was not written with a report"):
        study.report()
    (page.parent / "results.json").write_text(json.dumps({"study": {}, "runs": []}))  # of an earlier version
    assert study.report() == page and (page.parent / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("root", ["file", "file/below", "link", ""])
def test_a_root_that_cannot_be_used(root, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StudyError, match="root="):
        Study(study_from(CONTENT), root and tmp_path / root)


def test_the_home_folder_in_a_root(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Study(study_from(CONTENT), "~/studies").root == tmp_path / "home" / "studies"


def test_texts_are_written_through_links(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.md").write_text("old")
    (tmp_path / "a.md").symlink_to(tmp_path / "disk" / "a.md")
    write_text(tmp_path / "a.md", "new")
    assert (tmp_path / "a.md").is_symlink() and (tmp_path / "disk" / "a.md").read_text() == "new"
    assert {each.name for each in tmp_path.iterdir()} == {"disk", "a.md"}


def test_the_page_of_a_run_replaces_only_itself(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    folder = study.record(study.runs[0]).folder
    assert write_run_page(folder) == write_run_page(folder)
    (folder / "report.html").write_text("<html>mine</html>")
    with pytest.raises(StudyError, match="was not written by this library"):
        write_run_page(folder)
    assert (folder / "report.html").read_text() == "<html>mine</html>"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["name=store"], "config field name: got 'store', allowed is another name"),
        (["protocols=[nop]"], "evaluation.protocols: got .'nop'."),
        (["+batch.tasks=1"], "batch.tasks: got 1, allowed is a whole number of at least 2"),
        (["+dataset.recipe=small_train_only", "protocols=[offline]"], "records the training tasks alone"),
    ],
)
def test_a_run_that_cannot_begin_is_refused_with_the_plan(changes, message, tmp_path):
    with pytest.raises((ConfigError, StudyError), match=message):
        study_command(["plan", "quick", f"root={tmp_path / 'studies'}", *changes])
    assert list(tmp_path.iterdir()) == []


def test_an_empty_root_is_refused():
    with pytest.raises(StorageError, match="the path is empty"):
        study_command(["plan", "quick", "root="])


@pytest.mark.ci
def test_files_of_an_earlier_report_do_not_stay_as_if_they_were_of_the_new_one(make_study, here, tmp_path):
    """Nothing else goes: neither a user's files, nor what a damaged list names."""
    study = make_study()
    study.run(here, progress=False)
    folder = study.report().parent
    mine = [folder / "mine.csv", folder / "figures" / "mine.png", tmp_path / "out.csv", folder / "notes.txt"]
    for file in [*mine, tmp_path / "outside.csv"]:
        file.write_text("mine")
    (folder / "archive.csv").mkdir()
    (folder / "returns-train.tex").unlink()
    (folder / "returns-train.tex").symlink_to(tmp_path / "outside.csv")
    results = json.loads((folder / "results.json").read_text())
    odd = [
        "../../out.csv",
        str(tmp_path / "out.csv"),
        "notes.txt",
        "archive.csv",
        "",
        "figures",
        "figures/..",
    ]
    results["files"] += odd
    (folder / "results.json").write_text(json.dumps(results))
    smaller = make_study(
        {"report": {"splits": ["test"], "profiles": False, "after": []}, "protocols": ["np"]}
    )
    smaller.run(here, progress=False)
    smaller.report()
    left = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    written = set(json.loads((folder / "results.json").read_text())["files"])
    assert left == written | {"mine.csv", "figures/mine.png", "notes.txt"}
    assert not {"returns-train.csv", "early-test.csv", "figures/intervals-offline.png"} & left
    assert all(file.read_text() == "mine" for file in [*mine, tmp_path / "outside.csv"])
    (folder / "returns-train.csv").write_text("mine")  # the place is the user's again
    with pytest.raises(StudyError, match="returns-train.csv was not written with a report"):
        study.report()


@pytest.mark.ci
def test_figures_of_names_with_the_same_letters_are_files_of_their_own(make_study, here):
    levels = {"codes<8": ["schedule.updates=8"], "codes>8": ["schedule.updates=9"], "Codes_8": ["tasks=x"]}
    study = make_study({"factors": {"size": levels, "method": ["ctmrl", "focal"], "seed": [0]}})
    study.run(here, progress=False)
    folder = study.report().parent / "figures"
    expected = {f"profiles-codes_8-{protocol}.png" for protocol in ("np", "offline")}
    expected |= {f"profiles-codes_8-{protocol}-2.png" for protocol in ("np", "offline")}
    expected |= {f"profiles-Codes_8-{protocol}-3.png" for protocol in ("np", "offline")}
    assert {file.name for file in folder.glob("profiles-*.png")} == expected
