"""Several reports as one."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest
from fakes import resolve

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.combining import combine_reports
from ctmrl_torchrl.studies.command import study_command
from ctmrl_torchrl.studies.config import load_study
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import write_json
from ctmrl_torchrl.studies.formats import to_markdown
from ctmrl_torchrl.studies.grid import expand
from ctmrl_torchrl.studies.origin import origin_of
from ctmrl_torchrl.studies.results_file import numbers_of, read_report
from ctmrl_torchrl.studies.tables import study_tables

FACTORS = {
    "env": ["point_robot", "sparse_point_robot"],
    "comparison": ["shared"],
    "method": ["ctmrl", "focal"],
    "seed": [0, 1, 2],
}


@pytest.fixture
def make_report(make_study, here, tmp_path):
    """Makes a report's folder with its results.json alone, without tables, figures and page, unless ``whole``."""

    def make(name, factors=None, folder="reports", options=None, whole=False, **changes):
        content = {"name": name, "factors": FACTORS | (factors or {})} | changes
        study = make_study(content, **(options or {}))
        study.run(here, progress=False)
        if whole:
            return study.report(tmp_path / folder / name).parent
        results = study.results()
        numbers = numbers_of(results) | {"origin": dataclasses.asdict(origin_of(results))}
        return write_json(tmp_path / folder / name / "results.json", numbers).parent

    return make


@pytest.fixture
def whole_tables(make_study, here):
    study = make_study({"name": "whole", "factors": FACTORS})
    study.run(here, progress=False)
    return study_tables(study.results())


def change(folder, edit):
    file = folder / "results.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return folder


def assert_same(tables, others):
    """The same tables, but for the returns after few episodes, which no file of results has."""
    others = [each for each in others if each.name != "early-test"]
    assert [(each.name, each.header) for each in tables] == [(each.name, each.header) for each in others]
    for one, other in zip(tables, others, strict=True):
        for row, expected in zip(one.rows, other.rows, strict=True):
            for cell, whole in zip(row, expected, strict=True):
                assert (cell.text, cell.runs, cell.done) == (whole.text, whole.runs, whole.done)
                if whole.value is not None:
                    assert cell.value == pytest.approx(whole.value, abs=1e-5)  # the file has six digits
                    assert (cell.interval is None) == (whole.interval is None)


@pytest.mark.parametrize(
    "parts",
    [
        ({"env": ["point_robot"]}, {"env": ["sparse_point_robot"]}),
        ({"method": ["ctmrl"]}, {"method": ["focal"]}),
        ({"seed": [1]}, {"seed": [0, 2]}),
        (
            {"env": ["point_robot"], "seed": [0, 1]},
            {"env": ["point_robot"], "seed": [2]},
            {"env": ["sparse_point_robot"], "method": ["ctmrl"]},
            {"env": ["sparse_point_robot"], "method": ["focal"]},
        ),
    ],
    ids=["environments", "methods", "seeds", "mixed"],
)
def test_parts_have_the_tables_of_the_whole(make_report, whole_tables, parts):
    folders = [make_report(f"part{index}", part) for index, part in enumerate(parts)]
    results, _ = combine_reports(folders)
    assert_same(study_tables(results), whole_tables)
    assert not any("not done" in note or "without" in note for note in results.notes)


def test_a_combined_report_is_combined_again(make_report, whole_tables, tmp_path):
    first, second, third = (make_report(f"seed{seed}", {"seed": [seed]}) for seed in (0, 1, 2))
    results, origin = combine_reports([first, third], "two")
    numbers = numbers_of(results) | {"origin": dataclasses.asdict(origin)}
    two = write_json(tmp_path / "two.json", numbers)
    results, _ = combine_reports([two, second / "results.json"])
    assert_same(study_tables(results), whole_tables)


@pytest.mark.ci
def test_the_command_writes_a_report_that_is_a_study(make_report, tmp_path):
    dense = make_report("dense", {"env": ["point_robot"]}, whole=True, protocols=["np"])
    sparse = make_report(
        "sparse", {"env": ["sparse_point_robot"], "seed": [1, 2]}, whole=True, protocols=["np"]
    )
    said = study_command(["combine", str(dense), str(sparse), "name=together", f"root={tmp_path}"])
    together = tmp_path / "together"
    assert said == f"the report is {together / 'report.html'}"
    page = (together / "report.html").read_text()
    assert "ctmrl study run together.yaml" in page and "10 of 10 runs done" in page
    pictures = {file.name for file in (together / "figures").iterdir()}
    assert pictures == {"intervals-np.png", "profiles-shared-np.png"}
    grid = [run.label for run in expand(load_study(together / "together.yaml"), resolve)]
    expected = [
        f"env={env} comparison=shared method={method} seed={seed}"
        for env, seeds in (("point_robot", (0, 1, 2)), ("sparse_point_robot", (1, 2)))
        for method in ("ctmrl", "focal")
        for seed in seeds
    ]
    assert grid == expected


def test_a_setting_that_the_environment_explains(make_report):
    fixed = ["schedule.updates=8", "dataset.root=a", "compile=onednn"]
    dense = make_report("dense", {"env": ["point_robot"]}, fixed=fixed)
    sparse = make_report(
        "sparse", {"env": ["sparse_point_robot"]}, fixed=["schedule.updates=9", "dataset.root=b"]
    )
    results, _ = combine_reports([dense, sparse])
    assert results.config.factors["env"] == {
        "point_robot": ["env=point_robot", "schedule.updates=8", "compile=onednn"],
        "sparse_point_robot": ["env=sparse_point_robot", "schedule.updates=9"],
    }
    assert results.config.fixed == ["dataset.root=a"]  # a place, which explains no result
    rows = "The rows differ in schedule.updates (8: Point-Robot, shared; 9: Sparse-Point-Robot, shared)."
    assert rows in results.notes
    assert "The reports differ in compile (onednn: dense; not set: sparse)." in results.notes
    assert not any(note.startswith("The reports differ in schedule") for note in results.notes)


def test_the_same_settings_in_other_words(make_report):
    one = make_report("one", {"seed": [0]}, fixed=["compile=recorded"])
    other = make_report("other", {"seed": [1], "method": {"ctmrl": ["method=ctmrl"], "focal": ["method=focal"]}},
                        fixed=["compile=false"])  # fmt: skip
    change(other, lambda content: content["study"].update(fixed=["compile=False"]))
    results, _ = combine_reports([one, other])
    assert len(results.done()) == 8


def test_methods_that_some_rows_lack_are_left_out(make_report):
    both = make_report("both", {"env": ["point_robot"]})
    one = make_report("one", {"env": ["sparse_point_robot"], "method": ["ctmrl"]})
    results, _ = combine_reports([both, one])
    assert results.compared == ("ctmrl",) and len(results.runs) == 6
    assert "Left out, because some rows have no run of them: focal." in results.notes
    assert results.config.report.baseline is None and results.config.exclude == []


def test_missing_seeds_are_no_part_of_the_study(make_report):
    dense = make_report("dense", {"env": ["point_robot"]})
    sparse = make_report("sparse", {"env": ["sparse_point_robot"], "seed": [1, 3]})
    results, _ = combine_reports([dense, sparse])
    assert [len(results.cell(row, "ctmrl")) for row in results.rows()] == [3, 2]
    assert not any("not done" in note for note in results.notes)


def test_failed_runs_stay_failed(make_report, tmp_path):
    one = make_report("one", {"seed": [0, 1]}, options={"failing": ("seed=1",)})
    other = make_report("other", {"seed": [2]})
    results, _ = combine_reports([one, other])
    failed = [run for run in results.runs if run.run.levels["seed"] == "1"]
    assert {(run.state, "the loss is not finite" in run.error) for run in failed} == {("failed", True)}
    assert "(2 of 3 runs, 1 failed)" in to_markdown(study_tables(results)[0])


def test_notes_and_origin(make_report):
    one = make_report("one", {"seed": [0]}, report={"notes": ["Of an early version.", "Of one."]})
    other = make_report("other", {"seed": [1]}, report={"notes": ["Of an early version."]})
    results, origin = combine_reports([one, other], "both")
    assert any(
        note.startswith(f"Combined by `ctmrl study combine {one} {other} name=both`")
        for note in results.notes
    )
    assert "one, other: Of an early version." in results.notes and "one: Of one." in results.notes
    assert len(origin.commands) == 8 and origin.core_hours == pytest.approx(8 * 36 / 3600)
    assert len(origin.data) == 2 and "torch" in origin.versions


def test_reports_of_one_name_are_told_apart_by_their_folders(make_report, tmp_path):
    mine, hers = make_report("same", {"seed": [0]}), make_report("same", {"seed": [1]}, folder="hers")
    results, _ = combine_reports([mine, hers])
    assert any(f"{mine} (" in note and f"{hers} (" in note for note in results.notes)


def test_a_report_of_an_earlier_version(make_report, tmp_path):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})

    def earlier(content):
        content.pop("references")
        content["origin"].pop("data")
        for run in content["runs"]:
            run.pop("data")

    change(one, earlier)
    change(other, earlier)
    results, _ = combine_reports([one, other])
    lacking = "A report of an earlier version, without references, so without normalized scores."
    assert f"one, other: {lacking}" in results.notes
    assert "one, other: The report does not say of every run which data it had." in results.notes
    assert [each.name for each in study_tables(results)] == ["returns-test", "returns-train"]


def test_the_only_data_of_a_report_are_those_of_its_runs(make_report):
    one = make_report("one", {"env": ["point_robot"]})

    def without(content):
        for run in content["runs"]:
            run.pop("data")

    known = {each.fingerprint for each in read_report(one).results.runs}
    assert {each.fingerprint for each in read_report(change(one, without)).results.runs} == known != {None}


def test_costs_and_noise_of_contexts_are_kept(make_report):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})
    cost = {"episodes": 5.0, "env_steps": 100.0, "oracle_answers": 0.0}

    def with_costs(content):
        for run in content["runs"]:
            run["cost"] = {"np": cost}

    change(one, with_costs)
    results, _ = combine_reports([one, other])
    costs = study_tables(results)[-1]
    assert costs.name == "cost-test" and [cell.text for cell in costs.rows[0]][3:] == ["5 / 100", "5 / 100"]
    noisy = [each for each in results.runs if each.finished()["returns"]["train"]["np"].get("context_noise")]
    assert {each.run.levels["seed"] for each in noisy} == {"1"}  # the stand-in has none for seed 0
    again = numbers_of(results)
    assert [run["cost"] for run in again["runs"]] == [{"np": cost}, {}] * 4


REFUSED = {
    "the same run": (
        {},
        {},
        "one and other both have the run env=point_robot comparison=shared method=ctmrl",
    ),
    "other settings": (
        {"fixed": ["schedule.updates=8"]},
        {"fixed": ["schedule.updates=9"], "factors": {"seed": [5]}},
        "no factor explains them.*one: schedule.updates=8; other: schedule.updates=9",
    ),
    "a setting of one": (
        {},
        {"fixed": ["schedule.updates=9"], "factors": {"seed": [5]}},
        "one: no schedule.updates; other: schedule.updates=9",
    ),
    "another meaning": (
        {"factors": {"method": {"ctmrl": ["method=ctmrl"]}}},
        {"factors": {"method": {"ctmrl": ["method=ctmrl", "preset=cpu"]}, "seed": [5]}},
        "The level method=ctmrl has no preset in one and preset=cpu in other",
    ),
    "another comparison": (
        {},
        {"compare": "env", "factors": {"seed": [5]}},
        "one compares the levels of method, other those of env",
    ),
    "another factor": (
        {},
        {"factors": {"variant": {"full": []}, "seed": [5]}},
        "other has the factor variant and one does not",
    ),
}


@pytest.mark.parametrize(("first", "second", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared(make_report, first, second, message):
    first, second = (dict(each) for each in (first, second))
    one = make_report("one", first.pop("factors", None), **first)
    other = make_report("other", second.pop("factors", None), **second)
    with pytest.raises(StudyError, match=message):
        combine_reports([one, other])


def test_other_data(make_report):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})

    def collected_anew(content):
        for run in content["runs"]:
            run["data"] = "beef"

    change(other, collected_anew)
    with pytest.raises(
        StudyError, match=r"runs of .*env=point_robot have the data \w+ in one and beef in other"
    ):
        combine_reports([one, other])


def test_no_reports(make_report, tmp_path):
    one = make_report("one")
    with pytest.raises(StudyError, match="Name two or more reports"):
        combine_reports([one])
    with pytest.raises(StudyError, match="is named twice"):
        combine_reports([one, one])
    with pytest.raises(StudyError, match=f"{re.escape(str(tmp_path / 'nothing'))} holds no report"):
        combine_reports([one, tmp_path / "nothing"])
    other = make_report("other", {"seed": [7]})
    with pytest.raises(ConfigError, match="name"):
        combine_reports([one, other], "a/b")
    change(other, lambda content: content["study"].update(compare="nothing"))
    with pytest.raises(StudyError, match="The report .*other/results.json cannot be read: .*compare"):
        combine_reports([one, other])
    change(other, lambda content: content["study"].update(compare="method"))
    change(other, lambda content: content["runs"][0].pop("identity"))
    with pytest.raises(StudyError, match="cannot be read: 'identity' is missing"):
        combine_reports([one, other])


def test_nothing_that_is_not_a_report_is_replaced(make_report, tmp_path):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})
    (tmp_path / "combined").mkdir()
    (tmp_path / "combined" / "tables.md").write_text("mine")
    with pytest.raises(StudyError, match="tables.md was not written with a report"):
        study_command(["combine", str(one), str(other), f"root={tmp_path}"])
    assert (tmp_path / "combined" / "tables.md").read_text() == "mine"
