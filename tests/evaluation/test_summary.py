from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from ctmrl_torchrl.evaluation import (
    SummaryError,
    best_known,
    bootstrap_interval,
    build_summary,
    format_summary_table,
    load_summary,
    summary_schema,
    validate_summary,
    write_summary,
)


def arguments() -> dict:
    episodes = torch.linspace(-12.0, -4.8, 12)
    per_task = {2: torch.tensor(-4.5), 6: np.float32(-5.0), 10: -4.9}
    return {
        "env": "point_robot",
        "method": "ctmrl",
        "policy_loss": "brac_sac",
        "preset": "quick",
        "seed": np.int64(3),
        "updates": 12000,
        "wall_time_s": 431.25,
        "dataset": {"path": Path("data/point_robot"), "transitions": np.int64(56000)},
        "returns": {
            "test": {"np": {"per_task": per_task, "per_episode": episodes, "episodes_random": 10}},
            "train": {"offline": {"per_task": {0: -4.0}, "per_episode": (-4.0,)}},
        },
        "random": {"test": -20.36, "train": -20.35},
        "optimum": {"test": torch.tensor(-3.855, dtype=torch.float64), "train": -3.858},
        # what the parts of the method add
        "extra": {"codebook": {"perplexity": torch.tensor(6.5), "dead_codes": 1}},
    }


def test_build_gives_the_contract():
    summary = build_summary(**arguments())
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    result = summary["returns"]["test"]["np"]
    assert result["mean"] == pytest.approx(-4.8, abs=1e-6)
    assert result["ci95"] == list(bootstrap_interval(list(result["per_task"].values())))
    assert set(result["per_task"]) == {"2", "6", "10"} and len(result["per_episode"]) == 12
    assert result["episodes_random"] == 10
    assert summary["returns"]["train"]["offline"]["ci95"] == [-4.0, -4.0]
    assert summary["reference"]["random"] == -20.36 and summary["reference"]["optimum"] == -3.855
    assert summary["reference"]["train"] == {"random": -20.35, "optimum": -3.858}
    assert summary["reference"]["paper"]["test"]["ctmrl"] == {"mean": -4.81, "halfwidth": 0.12}
    assert summary["dataset"] == {"path": str(Path("data/point_robot")), "transitions": 56000}
    assert summary["codebook"] == {"perplexity": 6.5, "dead_codes": 1}
    assert "torch" in summary["versions"]


def test_method_without_codebook_and_unknown_references():
    summary = build_summary(**{**arguments(), "env": "mine", "extra": None, "random": None, "optimum": None})
    assert "codebook" not in summary
    assert summary["reference"]["optimum"] is None and summary["reference"]["paper"] == {}
    text = format_summary_table(summary)
    assert "optimum" not in text and "perplexity" not in text


def test_an_earlier_summary_without_numbers_of_a_codebook_stays_readable():
    """Methods without codes used to write them as null."""
    summary = build_summary(**arguments())
    summary["codebook"] = {"perplexity": None, "dead_codes": None}
    validate_summary(summary)
    assert "perplexity" not in format_summary_table(summary)


@pytest.mark.parametrize(
    ("codebook", "shown"), [({"perplexity": 6.5}, "codes in use (perplexity) 6.5\n"), (None, "\n\nReturn on")]
)
def test_a_codebook_of_ones_own_may_have_other_numbers(codebook, shown):
    summary = build_summary(**arguments() | {"extra": {"codebook": codebook}})
    assert shown in format_summary_table(summary)


def test_references_that_are_known_stand_beside_the_optimum():
    summary = build_summary(**arguments(), oracle={"test": -3.9, "train": -3.95}, behaviour={"test": -4.5})
    reference = summary["reference"]
    assert reference["oracle"] == -3.9 and reference["train"]["oracle"] == -3.95
    assert reference["behaviour"] == -4.5 and reference["train"]["behaviour"] is None
    assert best_known(reference) == ("optimum", -3.855)
    assert best_known(reference | {"optimum": None}) == ("oracle", -3.9)
    assert best_known({"optimum": None, "behaviour": -4.5}) == ("behavior", -4.5)
    assert best_known({"optimum": None}) == ("optimum", None)
    plain = build_summary(**arguments())["reference"]
    assert "oracle" not in plain and "behaviour" not in plain
    lines = format_summary_table(summary).splitlines()
    assert next(line for line in lines if line.startswith("  behavior ")).split()[-2:] == ["-4.500", "-"]


def test_splits_without_a_meta_test_have_no_table():
    summary = build_summary(**{**arguments(), "returns": {"test": {}, "train": {}}})
    validate_summary(summary)
    assert "Return on" not in format_summary_table(summary)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), torch.tensor(float("nan")), np.float32("inf")])
def test_number_that_is_not_finite_names_its_field(value):
    changed = arguments()
    changed["returns"]["test"]["np"]["per_task"][6] = value
    with pytest.raises(SummaryError, match=r"finite.*returns\.test\.np\.per_task\.6 is"):
        build_summary(**changed)
    with pytest.raises(SummaryError, match=r"dataset\.scores\[1\]"):
        build_summary(**{**arguments(), "dataset": {"scores": [0.0, value]}})


def test_other_errors_of_the_builder():
    with pytest.raises(SummaryError, match=r"dataset\.sampler is a object"):
        build_summary(**{**arguments(), "dataset": {"sampler": object()}})
    with pytest.raises(SummaryError, match=r"extra.*\['seed'\]"):
        build_summary(**{**arguments(), "extra": {"seed": 4}})
    changed = arguments()
    changed["returns"]["test"]["np"]["per_task"] = {}
    with pytest.raises(SummaryError, match=r"returns\.test\.np\.per_task is empty"):
        build_summary(**changed)
    changed["returns"]["test"]["np"]["per_task"] = {"1": -4.0, 1: -4.0}
    with pytest.raises(SummaryError, match="two keys of the same text"):
        build_summary(**changed)


def set_field(summary: dict, field: str, value) -> dict:
    summary = copy.deepcopy(summary)
    *parents, last = field.split(".")
    section = summary
    for parent in parents:
        section = section[parent]
    if value is None:
        del section[last]
    else:
        section[last] = value
    return summary


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("updates", None, r"lacks the field\(s\) \['updates'\]"),
        ("env", "", "env must be a text"),
        ("seed", "0", "seed must be an integer"),
        ("updates", True, "updates must be an integer"),
        ("wall_time_s", -1.0, "wall_time_s"),
        ("versions", ["torch"], "versions must be a mapping"),
        ("returns", {}, "returns must be a mapping with the splits"),
        ("returns.validation", {}, r"returns must be a mapping with the splits.*validation"),
        ("returns.test.np", [1.0], r"returns\.test\.np must be a mapping"),
        ("returns.test.np.ci95", None, r"returns\.test\.np lacks \['ci95'\]"),
        ("returns.test.np.ci95", [1.0, 0.0], r"returns\.test\.np\.ci95 must be \[low, high\]"),
        ("returns.test.np.per_episode", [], r"returns\.test\.np\.per_episode must be a list"),
        ("returns.test.np.per_task", {"first": -4.8}, r"per_task must be a mapping from task ids.*first"),
        ("returns.test.np.mean", -3.0, r"returns\.test\.np\.mean is -3\.0, but the mean of"),
        ("returns.test.np.mean", float("nan"), r"finite.*returns\.test\.np\.mean"),
        ("reference.random", None, r"reference lacks \[\'random\'\]"),
        ("reference.optimum", "best", "reference.optimum must be a number or null"),
        ("reference.paper", None, r"reference lacks \['paper'\]"),
        ("reference.paper", 3, r"reference\.paper must be a mapping, got 3"),
        ("reference.optimum", None, "reference must be a mapping with 'random', 'paper', and 'optimum' or"),
        ("returns.test.np.per_task.6", "bad", r"returns\.test\.np\.per_task\.6 must be a number, got 'bad'"),
        ("returns.test.np.per_episode", [1.0, True], r"returns\.test\.np\.per_episode\[1\] must be a number"),
    ],
)
def test_validation_names_the_field(field, value, message):
    summary = build_summary(**arguments())
    validate_summary(summary)
    with pytest.raises(SummaryError, match=message):
        validate_summary(set_field(summary, field, value))


def test_oracle_may_stand_for_the_optimum():
    summary = build_summary(**arguments())
    summary["reference"]["oracle"] = summary["reference"].pop("optimum")
    validate_summary(summary)
    assert "oracle" in format_summary_table(summary)


RESULTS = Path(__file__).parents[2] / "results"


def test_the_schema_is_a_schema_and_describes_every_expectation():
    schema = summary_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    parts = [schema, *schema["properties"].values(), *schema["$defs"].values()]
    assert all("description" in part or "$ref" in part for part in parts)


def test_the_schema_alone_accepts_what_is_committed_and_written():
    validator = jsonschema.Draft202012Validator(summary_schema())
    for file in sorted((RESULTS / "summaries").glob("*.json")):
        validator.validate(json.loads(file.read_text(encoding="utf-8")))
    validator.validate(build_summary(**arguments()))
    assert not validator.is_valid(build_summary(**arguments()) | {"seed": "0"})


def test_committed_summaries_stay_readable():
    files = sorted((RESULTS / "summaries").glob("*.json"))
    assert files
    for file in files:
        text = format_summary_table(load_summary(file))
        assert "Return on unseen test tasks" in text, file.name


def test_write_and_load(tmp_path):
    summary = build_summary(**arguments())
    path = write_summary(summary, tmp_path / "run" / "summary.json")
    assert load_summary(path) == summary
    assert [entry.name for entry in path.parent.iterdir()] == ["summary.json"]


def test_a_bad_summary_leaves_the_old_file(tmp_path):
    path = write_summary(build_summary(**arguments()), tmp_path / "summary.json")
    before = path.read_bytes()
    bad = set_field(build_summary(**arguments()), "wall_time_s", float("inf"))
    with pytest.raises(SummaryError, match="wall_time_s"):
        write_summary(bad, path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_load_errors(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text('{"env": ')
    with pytest.raises(SummaryError, match=r"summary\.json is not JSON"):
        load_summary(path)
    path.write_text("[]")
    with pytest.raises(SummaryError, match="JSON object, got a list"):
        load_summary(path)
    path.write_text("{}")
    with pytest.raises(SummaryError, match=f"{path}: .*lacks the field"):
        load_summary(path)


def test_table():
    lines = format_summary_table(build_summary(**arguments())).splitlines()
    assert lines[0].startswith("point_robot | ctmrl + brac_sac") and "12,000 updates in 7.2 min" in lines[0]
    row = next(line for line in lines if line.startswith("  np ")).split()
    assert row[1:6] == ["-12.000", "-11.345", "-5.455", "-4.800", "(12)"]
    offline = next(line for line in lines if line.startswith("  offline ")).split()
    assert offline[1:6] == ["-4.000", "-", "-", "-4.000", "(1)"]
    text = "\n".join(lines)
    assert "unseen test tasks" in text and "training tasks" in text
    assert "-20.360" in text and "-3.855" in text and "[-4.930, -4.690]" in text
    assert "best rival (idaq)" in text.split("training tasks")[0]
    assert "best rival (unicorn)" in text.split("training tasks")[1]
    table = lines[lines.index("") + 2 :]
    assert (
        len({len(line) for line in table[: table.index("")]}) == 1
    )  # every row equally long: aligned columns
    assert max(map(len, lines)) <= 110
