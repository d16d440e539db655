"""From finished runs to the files in results/ and the table in the docs."""

from __future__ import annotations

import json

import pytest
from programs import load

from ctmrl_torchrl.evaluation.summary import build_summary, write_summary

pytestmark = pytest.mark.ci


def summary(tmp_path, name, seed, value, policy_loss="brac_sac", extra=""):
    """The folder of a finished run, with nothing in it but a summary of made-up returns."""
    result = {
        "mean": value,
        "ci95": [value, value],
        "per_task": {"2": value},
        "per_episode": [value - 1] * 20,
    }
    protocols = dict.fromkeys(("offline", "online", "np", "np_refine", "codes"), result)
    made = build_summary(
        env="point_robot",
        method="ctmrl",
        policy_loss=policy_loss,
        preset="cpu",
        seed=seed,
        updates=10,
        wall_time_s=1.0,
        dataset={"tasks": "repo", "recipe": "small", "seed": 0, "counts": {}},
        returns={"test": protocols, "train": protocols},
        random={"test": -20.0, "train": -20.0},
        optimum={"test": -3.86, "train": -3.9},
        extra={
            "command": f"python examples/train_ctmrl.py seed={seed}{extra}",
            "codebook": {"perplexity": 7.0, "dead_codes": 0},
        },
    )
    (tmp_path / name).mkdir()
    write_summary(made, tmp_path / name / "summary.json")
    return tmp_path / name


def test_from_runs_to_results_to_the_table(program, monkeypatch, tmp_path):
    runs = [summary(tmp_path, f"run{seed}", seed, -4.0 - seed) for seed in (0, 1)]
    output, kept = tmp_path / "results" / "point_robot-ctmrl.json", tmp_path / "results" / "runs"
    program("collect_results", output, *runs, "--keep", kept)
    first = output.read_text()
    program("collect_results", output, *sorted(kept.glob("*.json")))
    assert output.read_text() == first
    # another policy loss is another file; another command of the same name is refused
    iql = summary(tmp_path, "iql", 0, -5.0, "iql")
    program("collect_results", tmp_path / "i.json", iql, "--keep", kept)
    assert len(list(kept.glob("*.json"))) == 3
    other = summary(tmp_path, "other", 0, -9.0, extra=" representation.codes=2")
    with pytest.raises(SystemExit, match="contains the run of another command"):
        program("collect_results", tmp_path / "o.json", other, "--keep", kept)
    with pytest.raises(SystemExit, match="differ in 'representation.codes'"):
        program("collect_results", tmp_path / "o.json", runs[1], other)

    oracle = {"env": "point_robot", "tasks": "repo", "policy_loss": "brac_sac", "preset": "cpu"}
    (tmp_path / "results" / "oracle").mkdir()
    file = tmp_path / "results" / "oracle" / "point_robot.json"
    file.write_text(json.dumps({**oracle, "returns": {"test": -3.95, "train": -3.96}}))
    table = load("results_table")
    monkeypatch.setattr(table, "ROOT", tmp_path)
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text("before <!-- table -->old<!-- /table --> after")
    table.main()
    text = page.read_text()
    assert text.startswith("before <!-- table -->\n| environment") and text.endswith("<!-- /table --> after")
    both = "-4.50 [-5.00, -4.00]"
    assert (
        f"| Point-Robot (repo) | `ctmrl` | 2 |  | {both} | {both} | -5.50 / -5.50 / -5.50 | -5.50 |" in text
    )
    assert "| -3.95 | -3.86 | -4.81 |" in text
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="no <!-- table -->"):
        table.main()


def test_the_control_of_codes_refuses_a_seed_twice_before_any_work(program, tmp_path):
    run = summary(tmp_path, "run", 0, -4.0)
    again = summary(tmp_path, "again", 0, -4.5)
    with pytest.raises(SystemExit, match=r"A seed occurs more than once among the summaries: \[0, 0\]"):
        program("codes_control", tmp_path / "control.json", run, again)
    assert not (tmp_path / "control.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["tabel1"], "Did you mean 'table1'"), (["quick", "worker=2"], "neither a field nor a factor")],
)
def test_reproducing_a_study_needs_one_that_exists(arguments, told, program, capsys):
    with pytest.raises(SystemExit, match="python examples/reproduce.py quick"):
        program("reproduce")
    with pytest.raises(SystemExit, match="2"):
        program("reproduce", *arguments)
    assert told in capsys.readouterr().err
