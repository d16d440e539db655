"""Reports for the tests of combined ones."""

from __future__ import annotations

import json

import pytest

FACTORS = {
    "env": ["point_robot", "sparse_point_robot"],
    "comparison": ["shared"],
    "method": ["ctmrl", "focal"],
    "seed": [0, 1, 2],
}


def change(folder, edit):
    file = folder / "results.json"
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))
    return folder


def earlier(content):
    for name in ("references", "settings"):
        content.pop(name, None)
    content["origin"].pop("data")
    for run in content["runs"]:
        run.pop("data")
        run.pop("settings")


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
