"""The command line, the progress line and the package's own way of resolving a run."""

from __future__ import annotations

import io

import pytest
import yaml
from fakes import FakeData, FakeRun, resolve
from study_content import CONTENT
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.commands.study import main
from ctmrl_torchrl.studies.attempts import quoted
from ctmrl_torchrl.studies.command import HELP, study_command
from ctmrl_torchrl.studies.config import load_study, study_from
from ctmrl_torchrl.studies.defaults import resolve_run
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.identity import data_key, identity_of
from ctmrl_torchrl.studies.places import study_names
from ctmrl_torchrl.studies.progress import Progress
from ctmrl_torchrl.studies.runners import RUNNERS
from ctmrl_torchrl.studies.study import Study


@pytest.fixture
def failing():
    """Overrides that make a run fail."""
    return []


@pytest.fixture
def command(tmp_path, here, failing):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(CONTENT | {"runner": {"name": "here"}}))
    RUNNERS.register("here", _dataclass(type(here)))

    def make(config, root):
        assert root == tmp_path / "root"
        run = FakeRun(str(tmp_path / "log"), failing=tuple(failing))
        data = FakeData(str(tmp_path / "data.log"))
        return Study(config, root, resolve=resolve, prepare=data, execute=run)

    yield lambda action, *changes: study_command(
        [action, str(file), f"root={tmp_path / 'root'}", *changes], make
    )  # fmt: skip
    RUNNERS.unregister("here")


def _dataclass(kind):
    from dataclasses import dataclass

    return dataclass(type("HereByName", (kind,), {}))


def test_plan_run_status_report(command, tmp_path):
    assert command("plan", "seeds=[0]").splitlines()[-2] == "4 runs on 2 datasets: 4 waiting"
    said = command("run", "seeds=[0]", "progress=false")
    assert said == f"4 done\nthe report is {tmp_path}/root/small/report.html"
    plan = command("plan")
    assert (
        "  env=point_robot method=ctmrl seed=0: done" in plan
        and "12 runs on 2 datasets: 4 done, 8 waiting" in plan
    )
    assert "still to do: 0.1 core hours (4 min on one core)" in plan
    assert command("status") == "4 done, 8 waiting"
    assert command("report").startswith("the report is")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum", "quick"], "Unknown action 'rum'. Did you mean 'run'"),
        (["run"], "Name a study: ctmrl study run NAME"),
        (["run", "seeds=[0]"], "Name a study"),
        (["run", "quick", "progress=maybe"], "expected progress=true or progress=false"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(StudyError, match=message):
        study_command(arguments)


def test_help():
    assert study_command([]) == study_command(["--help"]) == HELP


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_in_a_terminal_and_lines_elsewhere(monkeypatch):
    stream, lines = Terminal(), []
    with Progress(4, 1, lambda: (2, 1, 130.0), stream=stream) as progress:
        progress.advance()
    assert "2/4 runs, 2 running, 1 failed, 2 min left" in stream.getvalue().split("\r")[-1]
    monkeypatch.setattr("ctmrl_torchrl.studies.progress.torchrl_logger.info", lines.append)
    with Progress(2, 0, lambda: (0, 0, None), stream=io.StringIO(), pause=0.05) as progress:
        progress.advance()
        progress._stop.wait(0.2)
        progress.advance()
    assert lines[0] == "0 of 2 runs done, 0 running, 0 failed" and "1 of 2 runs done" in lines[1]
    assert lines[-1].startswith("2 of 2 runs done") and len(lines) >= 4
    with Progress(2, 0, lambda: (0, 0, None), stream=stream, shown=False) as progress:
        progress.advance()
    assert len(lines) >= 4


def test_the_packages_own_configurations_have_identities():
    """What says where a run is carried out does not change which run it is; what it computes does."""
    base = resolve_run(["preset=smoke", "seed=1"])
    same = resolve_run(["preset=smoke", "seed=1", "run_dir=elsewhere", "output.figures=false", "threads=2"])
    assert base["schedule"]["updates"] == 60 and base["seed"] == 1
    assert identity_of(base, "d") == identity_of(same, "d") and data_key(base) == data_key(same)
    for changed in ("encoder.context_dim=7", "policy_loss=iql", "evaluation.final_repeats=3"):
        assert identity_of(resolve_run(["preset=smoke", "seed=1", changed]), "d") != identity_of(base, "d")
    assert data_key(resolve_run(["preset=smoke", "dataset.seed=5"])) != data_key(base)


def test_hydra_reads_quoted_folders_as_they_are(tmp_path):
    for folder in ("plain/a-1", "my runs/b=1", "it's/{x}", "a,b"):
        assert resolve_run([f"run_dir={quoted(folder)}"])["run_dir"] == folder


def test_a_study_of_the_package_is_planned(tmp_path):
    content = {"factors": {"method": ["ctmrl", "ctmrl_relabel"], "seed": [0, 1]}, "fixed": ["preset=smoke"]}
    study = Study(study_from(content), tmp_path)
    assert [run.configuration["seed"] for run in study.runs] == [0, 1, 0, 1]
    assert study.status() == {"waiting": 4}
    content["factors"]["method"] = ["ctmrl_relable"]
    with pytest.raises(StudyError, match="cannot run method=ctmrl_relable"):
        Study(study_from(content), tmp_path).plan()


def test_failed_runs_are_named_with_their_error_and_tried_again_on_request(command, failing):
    failing.append("method=ctmrl")
    said = command("run", "seeds=[0]", "envs=[point_robot]", "progress=false").splitlines()
    assert said[0] == "1 done, 1 failed"
    assert said[1].startswith("failed: env=point_robot method=ctmrl seed=0: ") and "not finite" in said[1]
    assert said[2] == "retry_failed=true tries them again"
    failing.clear()
    assert command("run", "seeds=[0]", "envs=[point_robot]", "progress=false").startswith("1 done, 1 failed")
    assert command(
        "run", "seeds=[0]", "envs=[point_robot]", "progress=false", "retry_failed=true"
    ).startswith("2 done\nthe report is")


@pytest.mark.ci
@pytest.mark.parametrize("name", study_names())
def test_every_combination_of_a_shipped_study_can_run(name, tmp_path):
    """Composed and checked with the package's configurations, on the robot that all shipped studies have."""
    runs = Study(load_study(name, ["envs=[point_robot]", "seeds=[0]"]), tmp_path).runs
    assert len({identity_of(run.configuration, "d") for run in runs}) == len(runs) >= 2


@pytest.mark.ci
def test_methods_of_table_1_have_as_many_updates_of_the_policy(tmp_path):
    """Also CORRO, GENTLE and CTMRL's letter, whose own schedule differs from the preset's."""
    where = "envs=[point_robot_wind,half_cheetah_vel]"
    study = load_study("table1", [where, "comparisons=[shared]", "seeds=[0]"])
    runs = Study(study, tmp_path).runs
    assert len(runs) == 2 * 10
    for env in study.factors["env"]:
        mine = [run.configuration["schedule"] for run in runs if run.levels["env"] == env]
        assert len({each["updates"] for each in mine}) == 1
        assert {each["policy_start"] for each in mine} == {0.0}


def test_the_log_of_a_study_has_no_color_codes_in_a_file(monkeypatch, capsys):
    stream = io.StringIO()
    monkeypatch.setattr(torchrl_logger.handlers[0], "stream", stream)

    def command(arguments):
        torchrl_logger.info(f"doing {arguments[0]}")
        return "done\n\n"

    monkeypatch.setattr("ctmrl_torchrl.studies.command.study_command", command)
    assert main(["run"]) == 0
    assert capsys.readouterr().out == "done\n"
    assert stream.getvalue().endswith("[INFO] doing run\n") and "\033" not in stream.getvalue()
