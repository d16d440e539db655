"""What is read back from the file of a report."""

from __future__ import annotations

import dataclasses

import pytest
from reports import FACTORS, change, earlier

from ctmrl_torchrl.studies.combining import combine_reports
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.files import write_json
from ctmrl_torchrl.studies.kept import read_report
from ctmrl_torchrl.studies.results_file import numbers_of
from ctmrl_torchrl.studies.tables import study_tables


def test_reports_of_an_earlier_version(make_report):
    one = change(make_report("one", {"seed": [0]}), earlier)
    other = change(make_report("other", {"seed": [1]}), earlier)
    results, _ = combine_reports([one, other])
    for lacking in (
        "A report of an earlier version, without references.",
        "Not every run says which data it had.",
    ):
        assert f"one, other: {lacking}" in results.notes
    assert any("of whose settings only those of its commands are known" in note for note in results.notes)
    assert [each.name for each in study_tables(results)] == ["returns-test", "returns-train"]
    assert {each.run.configuration["env"] for each in results.runs} == set(FACTORS["env"])


def test_the_only_data_of_a_report_are_those_of_its_runs(make_report):
    one = make_report("one", {"env": ["point_robot"]})

    def without(content):
        for run in content["runs"]:
            run.pop("data")

    known = {each.fingerprint for each in read_report(one).results.runs}
    assert {each.fingerprint for each in read_report(change(one, without)).results.runs} == known != {None}
    early = change(make_report("early", {"env": ["sparse_point_robot"]}), earlier)
    results, origin = combine_reports([one, early])
    place = write_json(one.parent / "both.json", numbers_of(results) | {"origin": dataclasses.asdict(origin)})
    kept = read_report(place).results.runs  # the file has one fingerprint, which is not that of all its runs
    assert {each.run.levels["env"]: each.fingerprint for each in kept} == {
        "point_robot": known.pop(),
        "sparse_point_robot": None,
    }


def test_a_users_file_is_no_setting(make_report):
    def with_plugin(content):
        commands = content["origin"]["commands"]
        for label, command in commands.items():
            commands[label] = command.replace("ctmrl train", "ctmrl --plugin a=b/mine.py train")

    runs = read_report(change(make_report("one"), with_plugin)).results.runs
    assert not any("mine.py" in word for each in runs for word in each.run.overrides)


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


def put(value, *path):
    def edit(content):
        place = content
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return edit


DAMAGED = {
    "compare": (put("nothing", "study", "compare"), "compare"),
    "runs": (put({}, "runs"), "runs is {}, expected a list"),
    "level": (put("corro", "runs", 0, "levels", "method"), "method='corro', which is no level of the study"),
    "seed": (put("007", "runs", 0, "levels", "seed"), "seed='007', which is no level of the study"),
    "twice": (put("1", "runs", 0, "levels", "seed"), "it has the run .*seed=1 twice"),
    "state": (put("finished", "runs", 0, "state"), "the state of .* is 'finished', expected one of done"),
    "identity": (put(None, "runs", 0, "identity"), "runs.identity is missing, expected a text"),
    "return": (
        put(True, "runs", 0, "returns", "test", "np"),
        "runs.returns.test.np is True, expected a finite",
    ),
    "not finite": (put(float("nan"), "runs", 0, "returns", "test", "np"), "is nan, expected a finite number"),
    "cost": (put({"np": {}}, "runs", 0, "cost"), "runs.cost.np.episodes is missing"),
    "notes": (put("a text", "notes"), "notes is 'a text', expected a list"),
    "versions": (put(None, "origin", "versions"), "versions is missing"),
    "hours": (put("9", "origin", "core_hours"), "origin.core_hours is '9', expected a finite number"),
    "data": (put(["x"], "origin", "data"), r"origin.data is \['x'\], expected an object"),
    "commands": (put({}, "origin", "commands"), "origin.commands has no command of env=point_robot"),
    "reference": (put("x", "references", 0, "random"), "references.random is 'x'"),
    "name": (put("x", "references", 0, "name"), "references.name is 'x', expected one of random policy"),
}


@pytest.mark.parametrize(("edit", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_report(make_report, edit, message):
    other = change(make_report("other", {"seed": [0, 1]}), edit)
    with pytest.raises(StudyError, match=f"The report .*other/results.json cannot be read: .*{message}"):
        read_report(other)
