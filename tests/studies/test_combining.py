"""Several reports as one."""

from __future__ import annotations

import dataclasses
import re

import pytest
from reports import FACTORS, assert_same, change, earlier

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.combining import combine_reports
from ctmrl_torchrl.studies.command import study_command
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import write_json
from ctmrl_torchrl.studies.formats import to_markdown
from ctmrl_torchrl.studies.results_file import numbers_of
from ctmrl_torchrl.studies.tables import study_tables


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
def test_the_command_writes_a_report(make_report, tmp_path):
    dense = make_report("dense", {"env": ["point_robot"]}, whole=True, protocols=["np"])
    sparse = make_report(
        "sparse", {"env": ["sparse_point_robot"], "seed": [1, 2]}, whole=True, protocols=["np"]
    )
    said = study_command(["combine", str(dense), str(sparse), "name=together", f"root={tmp_path}"])
    together = tmp_path / "together"
    assert said == f"the report is {together / 'report.html'}"
    page = (together / "report.html").read_text()
    assert f"ctmrl study combine {dense} {sparse} name=together root={tmp_path}" in page
    assert "From the reports dense, sparse:" in page and "10 of 10 runs done" in page
    pictures = {file.name for file in (together / "figures").iterdir()}
    assert pictures == {"intervals-np.png", "profiles-shared-np.png"}
    assert not (together / "together.yaml").exists()
    before = (dense / "results.json").read_bytes()
    for place in (dense, dense / "results.json"):
        with pytest.raises(StudyError, match="is a report to combine and would be replaced"):
            study_command(["combine", str(place), str(sparse), "name=dense", f"root={dense.parent}"])
    assert (dense / "results.json").read_bytes() == before


def test_a_setting_in_which_rows_differ(make_report):
    fixed = ["schedule.updates=8", "dataset.root=a", "compile=onednn"]
    dense = make_report("dense", {"env": ["point_robot"]}, fixed=fixed)
    sparse = make_report(
        "sparse", {"env": ["sparse_point_robot"]}, fixed=["schedule.updates=9", "dataset.root=b"]
    )
    results, _ = combine_reports([dense, sparse])
    rows = "The rows differ in schedule.updates (8: Point-Robot, shared; 9: Sparse-Point-Robot, shared)."
    assert rows in results.notes
    assert "The reports differ in compile (onednn: dense; not set: sparse)." in results.notes
    assert not any(note.startswith("The reports differ in schedule") for note in results.notes)
    assert not any("dataset.root" in note for note in results.notes)  # a place explains no result


def test_levels_that_some_rows_lack(make_report):
    both = make_report("both", {"env": ["point_robot"]})
    one = make_report("one", {"env": ["sparse_point_robot"], "method": ["ctmrl"]})
    results, _ = combine_reports([both, one])
    assert results.compared == ("ctmrl", "focal") and len(results.runs) == 9
    notes = study_tables(results)[1].notes
    assert any("without Sparse-Point-Robot: focal not part of the study" in note for note in notes)
    results, origin = combine_reports([both, one], levels=["ctmrl"])
    assert results.compared == ("ctmrl",) and len(results.runs) == 6
    assert origin.command.endswith("name=combined 'methods=[ctmrl]'")
    assert origin.core_hours == pytest.approx(6 * 36 / 3600)
    with pytest.raises(StudyError, match=r"No report has method=ctmlr. Did you mean 'ctmrl'"):
        combine_reports([both, one], levels=["ctmlr"])


@pytest.mark.parametrize("option", ["methods=[ctmrl]", "method=ctmrl"])
def test_levels_are_selected_on_the_command_line(make_report, tmp_path, monkeypatch, option):
    written = []
    monkeypatch.setattr("ctmrl_torchrl.studies.report.write_report", lambda *args: written.append(args))
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})
    study_command(["combine", str(one), option, str(other), f"root={tmp_path}"])
    ((results, folder, _),) = written
    assert results.compared == ("ctmrl",) and folder == tmp_path / "combined"
    with pytest.raises(
        StudyError, match="methodes=.* neither a report nor an option. Did you mean 'methods'"
    ):
        study_command(["combine", str(one), str(other), "methodes=[ctmrl]"])


def test_different_seeds_are_said(make_report):
    dense = make_report("dense", {"env": ["point_robot"]})
    sparse = make_report("sparse", {"env": ["sparse_point_robot"], "seed": [1, 3]})
    more = make_report("more", {"env": ["sparse_point_robot"], "seed": [0], "method": ["focal"]})
    results, _ = combine_reports([dense, sparse, more])
    assert [len(results.cell(row, "ctmrl")) for row in results.rows()] == [3, 2]
    assert not any("not done" in note for note in results.notes)
    said = "the levels of method have different numbers of runs (ctmrl: 2, focal: 3)."
    assert f"Sparse-Point-Robot, shared: {said}" in results.notes


def test_factors_in_another_order_and_factors_that_runs_are_set_to(make_report, whole_tables):
    one = make_report("one", {"seed": [0]})
    turned = {name: FACTORS[name] for name in ("seed", "method", "comparison", "env")}
    other = make_report("other", turned | {"seed": [1]}, only_factors=True)
    lacking = {name: FACTORS[name] for name in ("env", "method")}
    last = make_report("last", lacking, only_factors=True, fixed=["comparison=shared", "seed=2"])
    results, origin = combine_reports([one, other, last])
    assert_same(study_tables(results), whole_tables)
    assert {tuple(each.run.levels) for each in results.runs} == {tuple(FACTORS)}
    assert set(origin.commands) == {each.run.label for each in results.runs}


def test_ways_of_comparing_are_never_in_one_table(make_report):
    lacking = {name: FACTORS[name] for name in ("method", "seed")}
    shared = make_report("shared", lacking | {"env": ["point_robot"]}, only_factors=True)
    own = make_report(
        "own", lacking | {"env": ["sparse_point_robot"]}, only_factors=True, fixed=["comparison=own"]
    )
    results, _ = combine_reports([shared, own])
    assert [table.name for table in study_tables(results)] == [
        f"{name}-{comparison}"
        for comparison in ("shared", "own")
        for name in ("returns-test", "aggregates-test", "returns-train", "aggregates-train")
    ]


def test_what_one_report_has_finished_counts(make_report):
    begun = make_report("begun")

    def unfinished(content):
        for run in content["runs"]:
            if run["levels"]["seed"] == "0":
                run.update(state="interrupted")

    change(begun, unfinished)
    rest = make_report("rest", {"seed": [0]})
    for places in ([begun, rest], [rest, begun]):
        results, _ = combine_reports(places)
        assert len(results.done()) == len(results.runs) == 12


def test_the_oracle_of_all_runs_is_the_best_known_return(make_report, make_study, here):
    factors = {"env": ["point_robot"], "method": {"ctmrl": ["method=ctmrl"], "oracle": ["method=oracle"]}}

    def no_optimum(content):
        for each in content["references"]:
            each.update(best=None)

    report = {"oracle": "oracle", "splits": ["test"]}
    reports = [
        change(make_report(f"seed{seed}", factors | {"seed": [seed]}, report=report), no_optimum)
        for seed in (0, 1)
    ]
    results, _ = combine_reports(reports)
    (row,) = results.rows()
    known = results.references(row, "test")
    assert known.name == "oracle" and known.problem == ""
    assert known.best == pytest.approx(sum(results.scores(row, "oracle", "test", "np")) / 2)


def test_settings_of_the_report_are_united(make_report):
    one = make_report(
        "one", {"seed": [0]}, report={"splits": ["test"], "after": [3], "figure_protocols": ["np"]}
    )
    own = {"baseline": "focal", "splits": ["train"], "paper": "methods", "paper_columns": {"focal": "corro"}}
    other = make_report("other", {"seed": [1]}, report=own | {"figure_protocols": ["offline"]})
    report = combine_reports([one, other])[0].config.report
    assert report.splits == ["test", "train"] and report.figure_protocols == ["np", "offline"]
    assert (report.baseline, report.paper, report.paper_columns) == ("focal", "methods", {"focal": "corro"})
    assert report.after == [1, 3, 5]
    three = make_report("three", {"seed": [2]}, report={"oracle": "ctmrl"})
    four = make_report("four", {"seed": [3]}, report={"oracle": "focal"})
    with pytest.raises(StudyError, match="different oracles: ctmrl, focal"):
        combine_reports([three, four])


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
    assert results.notes[0].startswith(
        "Combined from reports, each written with the commit in brackets: one ("
    )
    assert origin.command == f"ctmrl study combine {one} {other} name=both"
    assert origin.reports == ("one", "other")
    assert "one, other: Of an early version." in results.notes and "one: Of one." in results.notes
    assert len(origin.commands) == 8 and origin.core_hours == pytest.approx(8 * 36 / 3600)
    assert len(origin.data) == 2 and "torch" in origin.versions


def test_reports_of_one_name_are_told_apart_by_their_folders(make_report, tmp_path):
    mine, hers = make_report("same", {"seed": [0]}), make_report("same", {"seed": [1]}, folder="hers")
    results, _ = combine_reports([mine, hers])
    assert any(f"{mine} (" in note and f"{hers} (" in note for note in results.notes)


def test_the_references_of_one_report_are_those_of_its_rows(make_report, whole_tables):
    early = change(make_report("early", {"seed": [0, 2]}), earlier)
    results, origin = combine_reports([early, make_report("late", {"seed": [1]})])
    assert_same(study_tables(results), whole_tables)
    # no note on settings that one report says and the other does not
    assert not any("None" in note for note in results.notes)
    again = numbers_of(results) | {"origin": dataclasses.asdict(origin)}
    assert sum("data" in run for run in again["runs"]) == 4 and "settings" not in again


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
    place = other / "results.json"
    place.write_text(place.read_text()[:-20])
    with pytest.raises(StudyError, match="results.json is damaged: it is no JSON object"):
        combine_reports([one, other])


def test_nothing_that_is_not_a_report_is_replaced(make_report, tmp_path):
    one, other = make_report("one", {"seed": [0]}), make_report("other", {"seed": [1]})
    (tmp_path / "combined").mkdir()
    (tmp_path / "combined" / "tables.md").write_text("mine")
    with pytest.raises(StudyError, match="tables.md was not written with a report"):
        study_command(["combine", str(one), str(other), f"root={tmp_path}"])
    assert (tmp_path / "combined" / "tables.md").read_text() == "mine"
