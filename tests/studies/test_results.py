"""Results files, the table of the documentation and the pictures from them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.pictures import draw_results
from ctmrl_torchrl.studies.results import (
    collect_results,
    keep_summaries,
    read_summaries,
    rounded,
    write_results,
)
from ctmrl_torchrl.studies.results_table import results_table, write_between_marks

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def kept(pattern):
    return sorted((RESULTS / "summaries").glob(pattern))


def test_the_committed_results_are_what_their_summaries_give():
    """Kept summaries are rounded to four digits already, so the last digit may differ."""
    result = collect_results(read_summaries(kept("point_robot-ctmrl-brac_sac-cpu-repo-seed*")))
    committed = json.loads((RESULTS / "point_robot-ctmrl.json").read_text())
    assert result["seeds"] == committed["seeds"] and result["commands"] == committed["commands"]
    for name, entry in committed["returns"]["test"].items():
        assert result["returns"]["test"][name]["per_seed"] == entry["per_seed"]
        assert result["returns"]["test"][name]["ci95"] == pytest.approx(entry["ci95"], abs=1e-3)


def test_the_page_shows_the_committed_results(tmp_path):
    copy = tmp_path / "results.md"
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    copy.write_text(text, encoding="utf-8")
    write_between_marks(copy, results_table(RESULTS))
    assert copy.read_text(encoding="utf-8") == text


def test_one_seed_and_an_unknown_family(tmp_path):
    summary = json.loads(kept("point_robot-ctmrl-brac_sac-quick-repo-seed0.json")[0].read_text())
    summary |= {"env": "my_pendulum", "reference": summary["reference"] | {"optimum": None, "paper": {}}}
    write_results(collect_results([summary]), tmp_path / "my_pendulum-ctmrl.json")
    row = results_table(tmp_path).splitlines()[-1]
    offline = summary["returns"]["test"]["offline"]["mean"]
    assert row.startswith(f"| my_pendulum (repo) | `ctmrl` | 1 |  | {offline:.2f} |") and "[" not in row
    assert row.endswith("|  |  |  |")  # neither oracle, nor optimum, nor the paper's number
    assert draw_results(tmp_path, tmp_path) == [tmp_path / "my_pendulum-ctmrl.png"]
    assert (tmp_path / "my_pendulum-ctmrl.png").stat().st_size > 10_000


def test_a_row_names_other_data_and_has_their_oracle_only(tmp_path):
    """An oracle that learned from data of another recipe is not that row's."""
    summary = json.loads(kept("point_robot-ctmrl-brac_sac-quick-repo-seed0.json")[0].read_text())
    summary["dataset"] = summary["dataset"] | {"recipe": "broad"}
    write_results(collect_results([summary]), tmp_path / "point_robot-ctmrl.json")
    oracle = {"env": "point_robot", "tasks": "repo", "policy_loss": "brac_sac", "preset": "quick"}
    (tmp_path / "oracle").mkdir()
    file = tmp_path / "oracle" / "point_robot.json"
    for extra, shown in (({}, False), ({"recipe": "broad"}, True)):
        file.write_text(json.dumps(oracle | extra | {"returns": {"test": -1.23}}))
        row = results_table(tmp_path).splitlines()[-1]
        assert row.startswith("| Point-Robot (repo, broad) |") and ("| -1.23 |" in row) == shown


def test_kept_summaries_are_not_mixed(tmp_path):
    summaries = read_summaries(kept("sparse_point_robot-ctmrl-brac_sac-cpu-repo-seed[01].json"))
    files = keep_summaries(summaries, tmp_path)
    assert read_summaries(files) == summaries == [rounded(summary) for summary in summaries]
    keep_summaries(summaries, tmp_path)  # the same runs again are welcome
    with pytest.raises(StudyError, match="another command"):
        keep_summaries([summaries[0] | {"command": "other"}], tmp_path)
    unknown = summaries[0] | {"command": None, "seed": 9}
    keep_summaries([unknown], tmp_path)
    with pytest.raises(StudyError, match="another run: its updates is .*, that of this one 7"):
        keep_summaries([unknown | {"updates": 7}], tmp_path)


def test_a_command_is_the_same_with_and_without_quotes_for_a_shell(tmp_path):
    (first,) = read_summaries(kept("sparse_point_robot-ctmrl-brac_sac-cpu-repo-seed0.json"))
    keep_summaries([first | {"command": "ctmrl train sizes.hidden=[8]"}], tmp_path)
    keep_summaries([first | {"command": "ctmrl train 'sizes.hidden=[8]'"}], tmp_path)
    with pytest.raises(StudyError, match="another command"):
        keep_summaries([first | {"command": "ctmrl train 'sizes.hidden=[8]"}], tmp_path)


def test_missing_summaries_and_marks(tmp_path):
    with pytest.raises(StudyError, match="No summary of a finished run at: .*run/summary.json"):
        (tmp_path / "run").mkdir()
        read_summaries([tmp_path / "run"])
    with pytest.raises(StudyError, match="nothing was given"):
        read_summaries([])
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(StudyError, match="page.md has no <!-- table -->"):
        write_between_marks(tmp_path / "page.md", "x")


@pytest.fixture
def pair():
    return read_summaries(kept("point_robot-ctmrl-brac_sac-cpu-repo-seed[01].json"))


def test_runs_whose_commands_differ_in_more_than_the_seed_are_refused(pair):
    first, second = pair
    second["command"] = "ctmrl train preset=cpu representation.codes=10 seed=1"
    with pytest.raises(ValueError, match="seeds 0 and 1 differ in 'representation.codes': not set and 10"):
        collect_results(pair)
    first["command"] = "ctmrl train --plugin mine.py +representation.codes=10 run_dir=here seeds=[0,1]"
    assert collect_results(pair)["seeds"] == [0, 1]
    first["command"], second["command"] = "ctmrl train", "ctmrl train compile=recorded seed=1"
    assert collect_results(pair)["seeds"] == [0, 1]  # the same numbers
    second["command"] = "ctmrl train compile=onednn"
    with pytest.raises(ValueError, match="differ in 'compile': not set and onednn"):
        collect_results(pair)
    first["command"], second["command"] = (f"ctmrl train dataset.path={each}" for each in "ab")
    with pytest.raises(ValueError, match="differ in 'dataset.path': a and b"):
        collect_results(pair)
    second["command"] = "ctmrl train preset=cpu representation.codes=10 seed=1"
    first["command"] = None
    assert collect_results(pair)["commands"] == [None, second["command"]]
    first["updates"] = 9
    with pytest.raises(ValueError, match="differ in 'updates'"):
        collect_results(pair)


def test_a_method_without_codes(pair):
    for summary in pair:
        del summary["codebook"]
    assert collect_results(pair)["codebook"] == [None, None]


def test_two_oracles_of_one_setting_are_refused(tmp_path):
    oracle = {"env": "a", "tasks": "repo", "recipe": "small", "policy_loss": "bc", "preset": "cpu"}
    (tmp_path / "oracle").mkdir()
    for name, value in (("one", -1.0), ("other", -2.0)):
        content = json.dumps(oracle | {"returns": {"test": value, "train": value}})
        (tmp_path / "oracle" / f"{name}.json").write_text(content)
    with pytest.raises(StudyError, match="two oracles of a, repo, bc, cpu with other returns"):
        results_table(tmp_path)
