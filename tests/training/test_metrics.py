from __future__ import annotations

import math
import os

import pytest
from tiny_experiments import metric_rows

from ctmrl_torchrl.training.metrics import MetricsLog


def test_rows_are_written_as_they_come_and_exactly(tmp_path):
    log = MetricsLog(tmp_path / "metrics.csv")
    assert metric_rows(tmp_path) == []
    log.log(1, {"a": 0.1, "b,c": 1 / 3})
    log.log(2, {"a": float("nan")})
    rows = metric_rows(tmp_path)
    assert [row[:2] for row in rows] == [["1", "a"], ["1", "b,c"], ["2", "a"]]
    assert float(rows[1][2]) == 1 / 3 and math.isnan(float(rows[2][2]))
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_new_log_starts_empty(tmp_path):
    MetricsLog(tmp_path / "metrics.csv").log(1, {"a": 1.0})
    MetricsLog(tmp_path / "metrics.csv")
    assert metric_rows(tmp_path) == []


def test_resuming_drops_later_rows_and_a_broken_last_one(tmp_path):
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path)
    for step in (10, 20, 30):
        log.log(step, {"a": step, "b": -step})
    with path.open("a") as file:
        file.write("4")  # killed while writing
    MetricsLog(path, keep_until=20).log(30, {"a": 3.0})
    assert metric_rows(tmp_path) == [
        ["10", "a", "10.0"],
        ["10", "b", "-10.0"],
        ["20", "a", "20.0"],
        ["20", "b", "-20.0"],
        ["30", "a", "3.0"],
    ]


def test_resuming_without_earlier_rows(tmp_path):
    MetricsLog(tmp_path / "metrics.csv", keep_until=20)
    assert metric_rows(tmp_path) == []


def test_resuming_from_another_folder_leaves_it_alone(tmp_path):
    earlier, later = tmp_path / "earlier", tmp_path / "later"
    earlier.mkdir(), later.mkdir()
    MetricsLog(earlier / "metrics.csv").log(1, {"a": 1.0})
    before = (earlier / "metrics.csv").read_bytes()
    MetricsLog(later / "metrics.csv", keep_until=5, keep_from=earlier / "metrics.csv").log(2, {"a": 2.0})
    assert [row[0] for row in metric_rows(later)] == ["1", "2"]
    assert (earlier / "metrics.csv").read_bytes() == before


def test_an_existing_file_survives_a_failed_replacement(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    MetricsLog(path).log(1, {"a": 1.0})
    before = path.read_bytes()

    def failing(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="disk full"):
        MetricsLog(path, keep_until=0)
    assert path.read_bytes() == before


def test_rows_of_a_damaged_log_are_dropped(tmp_path):
    path = tmp_path / "metrics.csv"
    rows = [
        "step,name,value",
        "1,a,0.5",
        "x,a,1.0",
        "2,a,no",
        "3,a",
        "4,a,1.0,2",
        "5,b,nan",
        "6,c,7",
        "8,d,1.0",
    ]
    path.write_bytes("\r\n".join(rows).encode() + b"\r\n\xff\x00\r\n9,e,1.25")
    MetricsLog(path, keep_until=20)
    assert metric_rows(tmp_path) == [["1", "a", "0.5"], ["5", "b", "nan"], ["8", "d", "1.0"]]
