"""What a report does where the runs of a row are not alike, not done, or failed."""

from __future__ import annotations

import dataclasses
import json

import pytest
from reading import cells, change

from ctmrl_torchrl.studies.cells import Cell, mark_best
from ctmrl_torchrl.studies.formats import to_latex, to_markdown
from ctmrl_torchrl.studies.tables import study_tables

RECIPES = {"env": ["point_robot", "sparse_point_robot"], "dataset.recipe": ["small", "broad"], "seed": [0, 1]}


def with_reference(study, wanted, **reference):
    for each in study.results().runs:
        if wanted.items() <= each.run.levels.items():
            known = each.summary["reference"]
            change(each.folder / "summary.json", json, reference=known | reference)


@pytest.mark.ci
@pytest.mark.parametrize("recipes", [["small", "broad"], ["broad", "small"]])
def test_levels_with_references_of_their_own_are_not_normalized_with_one_of_them(recipes, make_study, here):
    study = make_study({"factors": RECIPES | {"dataset.recipe": recipes}, "compare": "dataset.recipe"})
    study.run(here, progress=False)
    for recipe, best in (("small", -4.0), ("broad", -2.0)):
        wanted = {"env": "point_robot", "dataset.recipe": recipe}
        with_reference(study, wanted, optimum=None, behaviour=best)
    results = study.results()
    returns, aggregates, *_ = study_tables(results)
    (row,) = cells(returns, env="Point-Robot", protocol="np")
    assert [cell.value for cell in row[-2:]] == [-20.0, None]
    (row,) = cells(returns, env="Sparse-Point-Robot", protocol="np")
    assert [cell.value for cell in row[-2:]] == [-20.0, -3.855]
    values = {"small": "small: behavior -4", "broad": "broad: behavior -2"}
    problem = f"different best known returns ({', '.join(values[recipe] for recipe in recipes)})"
    assert f"Point-Robot: the runs have {problem}; they share no reference and no normalized score." in (
        returns.notes
    )
    assert "np, offline: over Sparse-Point-Robot." in aggregates.notes
    assert any(f"without Point-Robot: its runs have {problem}" in note for note in aggregates.notes)
    training = next(table for table in study_tables(results) if table.name == "returns-train")
    assert not any("different" in note for note in training.notes)
    assert study.report().exists()


def test_survivors_are_not_marked_as_the_best():
    """One seed of three is done and lucky; the others have failed."""
    survivor = Cell(-3.0, None, runs=1, planned=3, failed=2, done=1)
    marked = mark_best([survivor, Cell(-4.0, (-5.0, -3.5), runs=3, planned=3), Cell(-4.5, runs=3, planned=3)])
    assert [(cell.best, cell.within) for cell in marked] == [(False, False), (True, False), (False, True)]
    assert mark_best([survivor, Cell(-4.0, runs=3, planned=3)])[1].best is False  # nothing to compare with
    half = Cell(-3.9, runs=2, planned=3, done=2)
    assert not any(cell.within for cell in mark_best([half, Cell(-3.8, (-5.0, -3.0)), Cell(-9.0)]))


def test_aggregates_count_failed_runs(make_study, here):
    factors = {"env": ["point_robot", "sparse_point_robot"], "method": ["ctmrl", "focal"]}
    study = make_study({"factors": factors | {"variant": {"plain": [], "long": ["schedule.updates=9"]}}
                        | {"seed": [0, 1, 2]}})  # fmt: skip
    study.run(here, progress=False)
    results = study.results()
    lost = {"env": "point_robot", "method": "ctmrl", "variant": "plain"}
    runs = [
        dataclasses.replace(each, state="failed", summary=None)
        if lost.items() <= each.run.levels.items() and each.run.levels["seed"] != "0"
        else each
        for each in results.runs
    ]
    tables = study_tables(dataclasses.replace(results, runs=tuple(runs)))
    (row,) = cells(tables[0], env="Point-Robot", variant="plain", protocol="np")
    assert row[3].remark() == "1 of 3 runs, 2 failed" and not (row[3].best or row[4].best)
    middle, mean, wins = cells(tables[1], variant="plain", protocol="np")
    for row in (middle, mean):
        assert row[3].remark() == "4 of 6 runs, 2 failed" and row[4].remark() == ""
        assert not any(cell.best or cell.within for cell in row)
    assert wins[3].remark() == "" and wins[4].remark() == "10 of 12 runs, 2 failed"
    assert "(10 of 12 runs, 2 failed)" in to_markdown(tables[1]) and "of 12 runs" in to_latex(tables[1])
    whole = cells(tables[1], variant="long", protocol="np")
    assert [cell.remark() for row in whole for cell in row] == [""] * 15
    assert [sum(cell.best for cell in row) for row in whole] == [1, 1, 0]


def test_an_aggregate_of_a_level_whose_runs_all_failed(make_study, here):
    methods = {"method": ["ctmrl", "focal", "csro"], "seed": [0, 1]}
    study = make_study({"factors": methods}, failing=("method=csro",))
    study.run(here, progress=False)
    _, aggregates, *_ = study_tables(study.results())
    for row in aggregates.rows:
        assert row[-1].value is None and row[-1].plain(3) == "failed"
    assert "np, offline: without csro, which has no finished run there." in aggregates.notes


TOLD = {"ctmrl": [], "focal": [], "oracle": ["method=oracle", "evaluation.protocols=[told]"]}


def test_a_finished_run_without_a_number_is_not_called_undone(make_study, here):
    study = make_study({"factors": {"env": ["point_robot"], "method": TOLD, "seed": [0, 1]}})
    study.run(here, progress=False)
    results = study.results()
    assert results.protocols() == ["np", "offline", "told"]
    returns, aggregates, *_ = study_tables(results)
    (np,) = cells(returns, protocol="np")
    assert np[4].plain(2) == "-" and np[2].value is not None
    (told,) = cells(returns, protocol="told")
    assert [cell.plain(2) for cell in told[2:4]] == ["-", "-"] and told[4].runs == 2
    assert "A dash: no finished run has this number." in returns.notes
    assert "np, offline: without oracle, which has no returns under this protocol." in aggregates.notes
    assert "not done" not in to_markdown(returns) + to_markdown(aggregates)
    waiting = make_study({"factors": {"env": ["point_robot"], "method": TOLD, "seed": [0, 1, 2]}})
    (np,) = cells(study_tables(waiting.results())[0], protocol="np")
    assert [cell.remark() for cell in np[2:5]] == ["2 of 3 runs", "2 of 3 runs", "-"]
    assert Cell(planned=2).remark() == "not done"


def test_an_environment_without_a_protocol_is_left_out_for_this_reason(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    for each in study.results().runs:
        if (each.run.levels["env"], each.run.levels["method"]) == ("point_robot", "focal"):
            returns = {"test": {"np": each.summary["returns"]["test"]["np"]}}
            change(each.folder / "summary.json", json, returns=returns)
    aggregates = study_tables(study.results())[1]
    assert any("without Point-Robot: no returns of focal under offline" in note for note in aggregates.notes)


def published(table):
    return {row[0].text: row[2].value for row in cells(table, protocol="published (other data)")}


def test_published_numbers_are_those_of_the_rows_own_environment(make_study, here):
    worlds = {"calm": ["env=point_robot"], "windy": ["env=point_robot_wind"]}
    factors = {"world": worlds, "method": ["ctmrl", "focal"], "seed": [0]}
    study = make_study({"factors": factors})
    study.run(here, progress=False)
    assert published(study_tables(study.results())[0]) == {"calm": -4.81, "windy": -5.69}
    study = make_study({"factors": {"method": ["ctmrl"], "world": worlds, "seed": [0]}, "compare": "world"}
                       | {"report": {"paper": "methods", "paper_columns": dict.fromkeys(worlds, "ctmrl")}}
                       )  # fmt: skip
    study.run(here, progress=False)
    assert published(study_tables(study.results())[0]) == {}  # a row of two environments


def test_levels_with_other_data_or_environments_are_named(make_study, here):
    levels = {
        "old": ["dataset.path=data/old"],
        "new": ["dataset.path=data/new"],
        "windy": ["dataset.path=data/new", "env=point_robot_wind"],
    }
    study = make_study({"factors": {"data": levels, "seed": [0, 1]}, "compare": "data"})
    notes = study.results().notes
    said = "old: data/old, new: data/new, windy: data/new"
    assert f"The levels of data differ in dataset.path as well ({said})." in notes
    said = "old: point_robot, new: point_robot, windy: point_robot_wind"
    assert f"The levels of data differ in env as well ({said})." in notes


def test_a_table_says_which_levels_were_made_on_which_machine(make_study, here):
    study = make_study({"factors": {"method": ["ctmrl", "focal", "csro"], "seed": [0, 1]}})
    study.run(here, progress=False)
    assert not any("machines" in note for note in study.results().notes)
    for each in study.results().runs:
        versions = {"python": "3.11", "torch": "2.13.0"}
        if each.run.levels["method"] == "csro" or each.run.label == "method=focal seed=1":
            versions |= {"torch": "2.11.0", "device": "NVIDIA H200"}
        change(each.folder / "summary.json", json, versions=versions)
    results = study.results()
    note = next(note for note in results.notes if "machines" in note)
    assert note == (
        "The runs were made with different versions or on different machines: "
        "3 runs with torch 2.13.0, device not recorded (method: ctmrl, focal); "
        "3 runs with torch 2.11.0, device NVIDIA H200 (method: focal, csro)."
    )
    assert all(note in table.notes for table in study_tables(results))


def test_levels_with_another_way_of_comparing_are_named(make_study, here):
    levels = {"shared": [], "published": ["comparison=own", "preset=cpu"]}
    study = make_study(
        {"factors": {"env": ["point_robot"], "way": levels, "seed": [0]}, "compare": "way", "report": {}}
    )
    study.run(here, progress=False)
    notes = " ".join(study.results().notes)
    assert (
        "differ in comparison as well" in notes and "published: own" in notes and "in preset as well" in notes
    )


def test_a_cell_that_the_study_excludes_is_not_called_unfinished(make_study, here):
    study = make_study({"exclude": [{"env": "point_robot", "method": "focal"}]})
    study.run(here, progress=False)
    aggregates = study_tables(study.results())[1]
    assert any("without Point-Robot: focal not part of the study" in note for note in aggregates.notes)


def test_data_alone_are_compared_whatever_environment_they_name(make_study, here):
    study = make_study({"factors": {"method": ["ctmrl", "focal"], "seed": [0]}, "fixed": ["env=dataset"]})
    study.run(here, progress=False)
    for each in study.results().runs:
        change(each.folder / "summary.json", json, env="point_robot")
    assert len(study.results().done()) == 2 and study.report().exists()


def test_one_measured_episode_is_no_curve_and_numbers_that_are_not_shown_need_no_note(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    for each in study.results().runs:
        returns = each.summary["returns"]
        for protocols in returns.values():
            protocols["offline"]["per_episode"] = protocols["offline"]["per_episode"][-1:]
        change(each.folder / "summary.json", json, returns=returns)
    page = study.report().read_text(encoding="utf-8")
    assert "Adaptation, protocol np" in page and "Adaptation, protocol offline" not in page
    assert "The published numbers" in page
    other = make_study({"factors": {"env": ["point_robot"], "method": ["unicorn_sup"], "seed": [0]}})
    other.run(here, progress=False)
    assert not any("The published numbers" in note for note in study_tables(other.results())[0].notes)
