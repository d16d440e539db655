"""Tables of a study: which runs they put side by side, by what they scale, and what adaptation has cost."""

from __future__ import annotations

import pytest

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.config import study_from
from ctmrl_torchrl.studies.tables import study_tables


def test_no_table_mixes_two_ways_of_comparing(make_study, here):
    factors = {
        "env": ["point_robot"],
        "comparison": ["shared", "own"],
        "method": ["ctmrl", "focal"],
        "seed": [0, 1],
    }
    study = make_study({"factors": factors})
    study.run(here, progress=False)
    tables = {table.name: table for table in study_tables(study.results())}
    kinds = ("returns-test", "returns-train", "aggregates-test")
    assert {*tables} >= {f"{kind}-{level}" for kind in kinds for level in ("shared", "own")}
    for name, table in tables.items():
        level = name.rpartition("-")[2]
        assert table.title.endswith(f", comparison={level}")
        assert {row[table.header.index("comparison")].text for row in table.rows} == {level}


def test_the_way_of_comparing_is_no_column():
    with pytest.raises(ConfigError, match="compare: got 'comparison', allowed is anything but comparison"):
        study_from({"factors": {"comparison": ["shared", "own"], "seed": [0]}, "compare": "comparison"})


def test_a_level_can_be_the_oracle_where_no_optimum_is_known(make_study, here):
    methods = {"csro": ["method=csro"], "oracle": ["method=oracle"]}
    changes = {"factors": {"env": ["point_robot", "half_cheetah_vel"], "method": methods, "seed": [0, 1]}}
    changes |= {"report": {"oracle": "oracle"}}
    study = make_study(changes)
    study.run(here, progress=False)
    results = study.results()
    for each in results.done():
        if each.run.levels["env"] == "half_cheetah_vel":
            each.summary["reference"].pop("optimum")
    known, unknown = ({"env": env} for env in ("point_robot", "half_cheetah_vel"))
    told = results.scores(unknown, "oracle", "test", results.protocols()[0])
    reference = results.references(unknown, "test")
    assert reference.name == "oracle" and reference.best == pytest.approx(sum(told) / 2)
    for each in results.done():
        if each.run.levels["method"] == "oracle":
            returns = each.summary["returns"]["test"]
            worse, better = (dict(returns["np"], mean=mean) for mean in (-90.0, -1.0))
            each.summary["returns"]["test"] = {"none": worse, **returns, "told": better}
    assert results.references(unknown, "test").best == -1.0
    assert results.references(known, "test").name == "optimum"
    with pytest.raises(ConfigError, match="report.oracle: got 'orcle'.*Did you mean 'oracle'"):
        make_study(changes | {"report": {"oracle": "orcle"}})


def test_costs_stand_beside_the_returns(make_study, here):
    study = make_study()
    study.run(here, progress=False)
    costs = {"episodes": 19.0, "env_steps": 380.0, "oracle_answers": 0.0}
    results = study.results()
    for index, each in enumerate(results.done()):
        entry = each.summary["returns"]["test"]["np"]
        entry["cost"] = costs | ({"oracle_answers": 10.0} if each.run.levels["method"] == "focal" else {})
        if index == 0:
            del entry["cost"]  # a summary of an earlier version
    (table,) = [table for table in study_tables(results) if table.name == "cost-test"]
    (row,) = [row for row in table.rows if [cell.text for cell in row[:2]] == ["Point-Robot", "np"]]
    assert [cell.text for cell in row[2:]] == ["19 / 380 / 0", "19 / 380 / 10"]
    assert table.notes[0].startswith("episodes / environment steps / oracle answers before the last episode")
