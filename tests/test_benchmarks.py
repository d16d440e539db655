"""The benchmarks run; what they measure is no assertion."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_simulator(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("simulator", BENCHMARKS / "simulator.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    output = tmp_path / "out.json"
    sizes = [
        "--family",
        "hopper_rand_params",
        "--rows",
        "3",
        "--rounds",
        "1",
        "--steps",
        "4",
        "--threads",
        "1",
    ]
    monkeypatch.setattr(sys, "argv", ["simulator", *sizes, "--output", str(output)])
    module.main()
    result = json.loads(output.read_text())
    assert len(result["rates"]) == 5
    for entry in result["rates"].values():
        assert all(value > 0 for value in entry.values())
    assert result["rates"]["bare mj_step loop"]["times_bare_loop"] == 1.0
