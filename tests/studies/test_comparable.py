"""What a report does where the runs of a row are not alike, not done, or failed."""

from __future__ import annotations

import json

import pytest
from reading import cells, change

from ctmrl_torchrl.studies.tables import study_tables

RECIPES = {"env": ["point_robot", "sparse_point_robot"], "dataset.recipe": ["small", "broad"], "seed": [0, 1]}


def with_reference(study, wanted, **reference):
    for each in study.results().runs:
        if wanted.items() <= each.run.levels.items():
            known = each.summary["reference"]
            change(each.folder / "summary.json", json, reference=known | reference)


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
