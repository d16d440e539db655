"""The benchmarks run; what they measure is no assertion."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.ci

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PARTS = ("encoder", "predictor", "policy")


@pytest.fixture
def benchmark(monkeypatch, tmp_path):
    """Runs the named benchmark with some arguments, in this process; returns what it wrote."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()

    def run(name, *arguments):
        output = tmp_path / f"{name}.json"
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments, "--output", str(output)])
        importlib.import_module(name).main()
        return json.loads(output.read_text())

    yield run
    torch.set_num_threads(threads)


def all_positive(entry):
    return all(value > 0 for value in entry.values())


def test_simulator(benchmark):
    sizes = "--family hopper_rand_params --rows 3 --rounds 1 --steps 4 --threads 1"
    result = benchmark("simulator", *sizes.split())
    assert len(result["rates"]) == 10
    assert all(all_positive(entry) for entry in result["rates"].values())
    assert result["rates"]["bare mj_step loop"]["times_bare_loop"] == 1.0
    assert multiprocessing.active_children() == []  # a process left behind would keep this one from ending


def test_gpu(benchmark):
    """On a CPU, where it says nothing; without a GPU it refuses to begin."""
    small = ["--methods", "focal", "--sizes", "quick", "--rounds", "1", "--calls", "1"]
    (row,) = benchmark("gpu", *small, "--device", "cpu")["updates"]
    assert set(row["update_ms"]) == {"false", "recorded"} and all_positive(row["update_ms"])
    assert row["recordings"] == 1
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="has no GPU"):
            benchmark("gpu", *small)


def test_update(benchmark, monkeypatch):
    cases = importlib.import_module("update").CASES
    overrides, phases = cases["quick"]
    small = ["batch.tasks=4", "batch.transitions=8", *(f"sizes.{part}_hidden=[8]" for part in PARTS)]
    monkeypatch.setitem(cases, "quick", ([*overrides, *small], phases))
    rows = benchmark("update", "--cases", "quick", "--rounds", "1", "--no-memory")["rows"]
    assert [row["phase"] for row in rows] == ["representation", "joint", "policy"]
    for row in rows:
        assert all(all_positive(timing) for timing in row["timings"].values())
        assert row["update_over_floor"] > 0 and row["over_floor"]["recorded"] > 0
        assert sum(row["shares"].values()) == pytest.approx(1.0, abs=1e-2)
    assert rows[0]["shares"]["policy loss"] == 0.0 == rows[2]["shares"]["hard contrast (L_contra)"]
    assert rows[1]["shares"]["policy loss"] > 0.0 < rows[1]["shares"]["hard contrast (L_contra)"]


def test_samples(benchmark):
    sizes = "--losses bc --ways false --preset smoke --rounds 1"
    result = benchmark("samples", *sizes.split())
    (row,) = result["rows"]
    assert row["policy_loss"] == "bc"
    assert row["transitions_per_cpu_second"] * row["cpu_ms"] / 1e3 == pytest.approx(16 * 64, rel=1e-2)


def test_methods(benchmark):
    """Inner steps belong to the update and to its floor, and every literal form computes what ours does."""
    sizes = "--methods csro --sizes quick --rounds 1 --transitions 280"
    result = benchmark("methods", *sizes.split())
    (row,) = result["rows"]
    assert all(all_positive(timing) for timing in row["timings"].values()) and row["recordings"] == 1
    assert 0.05 < row["timings"]["parts"]["cpu_ms"] / row["timings"]["false"]["cpu_ms"] < 0.95
    assert [each["method"] for each in result["literal"]] == ["csro", "er_trl", "er_trl", "gentle"]
    for each in result["literal"]:
        assert each["equal"] and each["largest_relative_difference"] < 1e-8 and each["ours_over_literal"] > 0


def test_a_wrong_form_is_not_equal(monkeypatch):
    """The bound without the own pairs is another number: the comparison would show it."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    literal = importlib.import_module("literal")
    loc, variance, contexts = torch.randn(2, 5, 3), torch.rand(2, 5, 3) + 0.5, torch.randn(2, 5, 3)
    bound = literal.club_bound(loc, variance, contexts)
    own = ((contexts - loc).square() / variance).mean((1, 2))
    torch.testing.assert_close(literal.all_pairs(loc, variance, contexts), bound)
    assert (literal.all_pairs(loc, variance, contexts) + own - bound).abs().min() > 1e-3


def test_time_to_return(benchmark, monkeypatch):
    """A target that the first agent reaches, and one that none reaches."""
    small = "preset=smoke schedule.updates=6 sizes.encoder_hidden=[8] sizes.policy_hidden=[8] batch.tasks=4"
    small += (
        " sizes.predictor_hidden=[8] batch.transitions=8 evaluation.episodes=2 evaluation.random_episodes=1"
    )
    module = importlib.import_module("time_to_return")
    monkeypatch.setattr(module, "in_fresh_process", lambda run, *arguments: (run(*arguments), 0.0))
    easy = benchmark("time_to_return", *small.split(), "--target", "-1000", "--every", "2", "--repeats", "1")
    assert easy["all_reached"] and easy["rows"][0]["updates"] == 2 and easy["median_cpu_s"] > 0
    hard = benchmark("time_to_return", *small.split(), "--target", "0", "--every", "3", "--repeats", "1")
    assert not hard["all_reached"] and list(hard["rows"][0]["returns"]) == ["3", "6"]


def test_kernels(benchmark):
    arguments = ["--phases", "policy", "--ways", "false", "recorded", "--updates", "1"]
    written, recorded = (row["shares"] for row in benchmark("kernels", *arguments)["rows"])
    for shares in (written, recorded):
        operators = shares.pop("operators")
        assert operators > 100 and sum(shares.values()) == pytest.approx(1.0, abs=1e-2)
    assert written["autograd"] > 0.0 == recorded["autograd"]


def test_every_term_of_the_released_objective_has_its_share(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cases, shares = (importlib.import_module(name) for name in ("cases", "shares"))
    sizes = [f"sizes.{name}_hidden=[8]" for name in PARTS]
    small = [
        "batch.tasks=4",
        "batch.transitions=8",
        "context.length=8",
        "representation.posterior_hidden=[8]",
    ]
    case = cases.make_case(cases.released_code("ant_goal", *small, *sizes), transitions_per_task=2_800)
    found = shares.shares(case, rounds=1)
    assert {part for part, *_ in shares._parts(case)} | {"rest"} == set(found)
    assert all(found[part] > 0 for part, *_ in shares._parts(case)) and found["rest"] > 0


def test_floor_counts_the_products_of_both_passes(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    products = importlib.import_module("products").RecordProducts()
    layer, x = torch.nn.Linear(5, 7), torch.randn(3, 4, 5)
    with products:
        layer(x).sum().backward()
    # Forward [12, 5] x [5, 7]; backward the weight's gradient, and none for the input, which asks for none.
    assert products.gflop * 1e9 == 2 * (12 * 5 * 7 + 7 * 12 * 5)
    products.bare()()


def test_sampling(benchmark):
    result = benchmark("sampling", "--env", "point_robot", "--transitions", "300", "--rounds", "1")
    assert len(result["timings"]) == 5 and all(all_positive(t) for t in result["timings"].values())
    assert result["transitions"] == 40 * 300


def test_larger_than_memory(benchmark, tmp_path):
    sizes = f"--gigabytes 0.02 --folder {tmp_path} --rounds 2"
    result = benchmark("larger_than_memory", *sizes.split())
    assert result["transitions"] > 50_000 and all_positive(result["sample"])
    assert {path.name for path in tmp_path.iterdir()} == {"larger_than_memory.json"}  # the data are gone


def test_meta_test(benchmark):
    result = benchmark("meta_test", "--rounds", "1", "--repeats", "1")
    assert set(result["protocols"]) == {"none", "offline", "online", "np", "np_refine", "codes"}
    # ten tasks, twenty measured episodes and a collected one between each two, of twenty steps
    assert result["protocols"]["np"]["env_steps"] == 10 * 39 * 20
    assert all_positive(result["episode"])


def test_scaling(benchmark, tmp_path):
    axes = benchmark("scaling", "--axes", "codes", "--largest", "0.3", "--rounds", "1")["axes"]
    assert [point["size"] for point in axes["codes"]["points"]] == [2, 16]
    assert all(all_positive(point) for point in axes["codes"]["points"])
    assert (tmp_path / "scaling.png").stat().st_size > 1_000


def test_memory_is_that_of_the_fresh_process(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    measure = importlib.import_module("measure")
    ballast = torch.ones(300_000_000)  # 1.2 GB here must not show there
    _, megabytes = measure.in_fresh_process(os.getpid)
    assert 50 < megabytes < 1_000
    del ballast


def test_the_table_holds_every_committed_result(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    run = importlib.import_module("run")
    table = run.table(run.RESULTS)
    for file in run.RESULTS.glob("*.json"):
        assert f"| {file.stem} |" in table, f"benchmarks/run.py does not make {file.name}"
