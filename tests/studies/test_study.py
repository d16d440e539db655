"""A study is planned, run, stopped and gone on with; nothing is repeated and nothing is dropped."""

from __future__ import annotations

import json

import pytest

from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.defaults import check_run
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.jobs import Outcome
from ctmrl_torchrl.studies.records import RunRecord, locked
from ctmrl_torchrl.studies.runners import LocalRunner


def returns(study):
    return [each.summary["returns"]["test"]["np"]["mean"] for each in study.results().runs]


def test_everything_is_run_once(make_study, here, log):
    study = make_study()
    assert str(study.plan()).startswith("12 runs on 2 datasets: 12 waiting\nstill to do: unknown")
    assert study.run(here, progress=False) == {"done": 12}
    assert len(log("end")) == 12 and log(name="data.log") == ["point_robot", "sparse_point_robot"]
    plan = study.plan()
    assert (plan.states, plan.seconds_left) == ({"done": 12}, 0.0)
    # again: neither runs nor data
    assert make_study().run(here, progress=False) == {"done": 12}
    assert len(log("start")) == 12 and len(log(name="data.log")) == 2


def test_a_larger_study_runs_only_what_is_new(make_study, here, log):
    make_study().run(here, progress=False)
    more = make_study({"name": "more", "factors": {"method": ["ctmrl", "csro"], "seed": [0, 1, 2, 3]}})
    assert more.status() == {"done": 3, "waiting": 5}
    assert more.plan().seconds_left == 5 * 36.0  # as long as the summaries say
    more.run(here, progress=False)
    assert len(log("end")) == 12 + 5


def test_data_that_have_changed_make_other_runs(make_study, here, tmp_path, log):
    study = make_study()
    study.run(here, progress=False)
    from fakes import FakeData

    changed = make_study()
    changed.prepare = FakeData(str(tmp_path / "data.log"), content="other")
    changed.config.factors["seed"] = [0, 1, 2, 3]  # something new to run, so the data are looked at
    assert changed.run(here, progress=False) == {"done": 16}
    assert len(log("end")) == 12 + 16


def test_a_failed_run_is_tried_twice_and_recorded(make_study, here, log):
    study = make_study(failing=("method=focal",))
    assert study.run(here, progress=False) == {"done": 6, "failed": 6}
    starts = log("start")
    assert sum("method=focal" in line for line in starts) == 12
    failed = [each for each in study.results().runs if each.state == "failed"]
    assert {each.error for each in failed} == {"the loss is not finite"}
    assert "failed" in (study.report().parent / "tables.md").read_text()
    # it stays failed until someone asks for it
    assert study.run(here, progress=False) == {"done": 6, "failed": 6} and len(log("start")) == len(starts)
    good = make_study()
    assert good.run(here, progress=False, retry_failed=True) == {"done": 12}


def test_a_run_that_failed_once_goes_on_from_its_checkpoint(make_study, here, log):
    study = make_study({"factors": {"method": ["ctmrl", "focal"]}}, failing=("method=focal",), once=True)
    assert study.run(here, progress=False) == {"done": 2}
    assert [line.split()[1] for line in log("start") if "focal" in line] == ["0", "5"]
    states = [attempt["state"] for attempt in study.record(study.runs[1]).attempts]
    assert states == ["failed", "done"]


def test_a_checkpoint_that_cannot_be_gone_on_from_is_left_behind(make_study, here, log):
    study = make_study({"factors": {"method": ["ctmrl", "focal"]}}, failing=("method=focal",), once=True)
    study.run(here, progress=False)
    record = study.record(study.runs[1])
    (record.folder / "summary.json").unlink()
    (record.folder / "checkpoints" / "last.pt").write_text("nonsense")
    record.file.unlink()
    assert study.run(here, progress=False) == {"done": 2}
    assert [attempt["state"] for attempt in study.record(study.runs[1]).attempts] == ["failed", "done"]
    assert log("start")[-1].startswith("start 0 ")


def test_another_meta_test_of_the_same_agents_trains_nothing(make_study, here, log):
    """Runs that differ in their protocols only go on from the checkpoint of the finished ones."""
    factors = {"method": ["ctmrl", "focal"], "seed": [0, 1]}
    study = make_study({"factors": factors, "protocols": ["np"]})
    study.run(here, progress=False)
    more = make_study({"factors": factors, "protocols": ["np", "none"]})
    assert more.status() == {"waiting": 4}
    assert more.run(here, progress=False) == {"done": 4}
    assert [line.split()[1] for line in log("start")] == ["0"] * 4 + ["8"] * 4
    assert returns(more) == returns(study)
    assert all(each.summary["returns"]["test"].keys() == {"np", "none"} for each in more.results().runs)
    attempt = more.record(more.runs[0]).attempts[0]
    assert attempt["resumed"] and attempt["trained_by"] == study.key(study.runs[0])


@pytest.mark.parametrize("damage", ["checkpoint", "nonsense", "summary", "index"])
def test_without_a_usable_checkpoint_the_agent_is_trained_again(damage, make_study, here, log):
    one = {"factors": {"method": ["ctmrl"], "seed": [0]}}
    study = make_study(one | {"protocols": ["np"]})
    study.run(here, progress=False)
    folder = study.record(study.runs[0]).folder
    if damage == "checkpoint":
        (folder / "checkpoints" / "last.pt").unlink()
    elif damage == "nonsense":
        (folder / "checkpoints" / "last.pt").write_text("nonsense")
    elif damage == "summary":
        (folder / "summary.json").unlink()
    else:
        (index,) = (study.store / "trainings").iterdir()
        index.write_text("[")
    more = make_study(one | {"protocols": ["np", "none"]})
    assert more.run(here, progress=False) == {"done": 1}
    assert log("start")[-1].startswith("start 0 ")
    states = [attempt["state"] for attempt in more.record(more.runs[0]).attempts]
    assert states == (["failed", "done"] if damage == "nonsense" else ["done"])


class Losing:
    """A runner whose processes are lost the first times."""

    workers = 1

    def __init__(self, times):
        self.left = times

    def run(self, work, jobs):
        for job in jobs:
            if job.label and self.left > 0 and "seed=1" in job.label and not job.key.startswith("data"):
                self.left -= 1
                RunRecord(job.store, job.key).start(job)
                yield Outcome(job.key, "lost", "the worker process ended")
            else:
                yield work(job)


def test_lost_runs_come_again_and_hopeless_ones_are_given_up(make_study):
    one = {"factors": {"method": ["ctmrl"], "seed": [0, 1]}}
    assert make_study(one).run(Losing(2), progress=False) == {"done": 2}
    hopeless = make_study(one, root="hopeless")
    assert hopeless.run(Losing(99), progress=False) == {"done": 1, "failed": 1}
    assert hopeless.results().runs[1].error == "the worker process ended, 3 times; out of memory?"


def test_a_runner_that_cannot_start_anything_does_not_go_on_forever(make_study, here):
    class Broken:
        workers = 1

        def run(self, work, jobs):
            for job in jobs:
                yield Outcome(job.key, "failed", "No module named 'mine'")

    study = make_study({"factors": {"method": ["ctmrl"]}})
    study._prepare_data(here)
    study._prepare_data = lambda runner, progress=False: None
    assert study.run(Broken(), progress=False) == {"failed": 1}
    assert study.results().runs[0].error == "No module named 'mine', 3 times"


def test_states_and_a_run_that_another_process_holds(make_study, here):
    study = make_study({"factors": {"method": ["ctmrl", "focal"]}})
    study._prepare_data(here)
    record = study.record(study.runs[0])
    from ctmrl_torchrl.studies.jobs import Job

    record.start(Job(record.key, (), str(study.store)))
    assert study.status() == {"interrupted": 1, "waiting": 1}
    with locked(study.store, record.key):
        assert study.status() == {"running": 1, "waiting": 1}
        from ctmrl_torchrl.studies.attempts import Attempt

        outcome = Attempt(study.execute, wait=0.1)(Job(record.key, (), str(study.store), "this run"))
        assert (outcome.state, outcome.error) == ("busy", "another process works on this run")
    assert study.run(here, progress=False) == {"done": 2}


def test_a_busy_run_is_said_at_the_end(make_study, here):
    class Busy:
        workers = 1

        def run(self, work, jobs):
            for job in jobs:
                yield Outcome(job.key, "busy", "held") if "seed=1" in job.overrides else work(job)

    study = make_study()
    with pytest.raises(StudyError, match="4 runs are held by another process"):
        study.run(Busy(), progress=False)
    assert study.status() == {"done": 8, "waiting": 4}


def test_data_that_cannot_be_made_stop_the_study_before_any_run(make_study, here, log):
    def refuse(overrides):
        raise ValueError("there is no MuJoCo here")

    study = make_study()
    study.prepare = refuse
    with pytest.raises(StudyError, match="The data of env=point_robot .* there is no MuJoCo here"):
        study.run(here, progress=False)
    assert log("start") == []


def test_a_record_that_is_half_written_is_as_good_as_none(make_study, here):
    study = make_study({"factors": {"method": ["ctmrl"]}})
    study._prepare_data(here)
    record = study.record(study.runs[0])
    record.file.parent.mkdir(parents=True, exist_ok=True)
    record.file.write_text('{"attempts": [')
    assert study.run(here, progress=False) == {"done": 1}
    assert json.loads(record.file.read_text())["attempts"][0]["state"] == "done"


def test_identical_levels_share_a_run(make_study, here, log):
    variant = {"one": [], "same": ["schedule.updates=8"], "other": ["schedule.updates=6"]}
    study = make_study({"factors": {"variant": variant, "seed": [0, 1]}, "compare": "variant"})
    assert study.run(here, progress=False) == {"done": 6} and len(log("end")) == 4
    values = returns(study)
    assert values[:2] == values[2:4] != values[4:]
    assert (
        "The levels one and same have the same configuration: they are the same runs."
        in study.results().notes
    )


@pytest.mark.parametrize("content", ["{", '{"attempts": 3}', '{"attempts": [{"state": 1}]}', "[1]"])
def test_a_damaged_record_counts_as_none(content, make_study, here, log):
    study = make_study()
    study.run(here, progress=False)
    record = study.record(study.runs[0])
    record.file.write_text(content)
    assert study.status() == {"done": 12} and len(study.results().done()) == 12
    (record.folder / "summary.json").unlink()
    study.run(here, progress=False)
    assert study.status() == {"done": 12} and len(log("end")) == 13


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "\x00"])
def test_a_damaged_configuration_of_a_run_is_named(content, make_study, here):
    study = make_study()
    study.run(here, progress=False)
    (study.record(study.runs[0]).folder / "config.yaml").write_text(content)
    with pytest.raises(StudyError, match="The configuration of .*config.yaml, cannot be read"):
        study.results()


def test_a_damaged_note_on_data_is_made_again(make_study, here, tmp_path):
    study = make_study()
    study.run(here, progress=False)
    for file in (study.store / "datasets").iterdir():
        file.write_text('{"fingerprint": 3}')
    assert study.status() == {"waiting": 12}
    assert study.run(here, progress=False) == {"done": 12}


def test_what_this_machine_cannot_run_is_refused_before_the_first_run(make_study, here, log, tmp_path):
    def check(overrides):
        if "method=focal" in overrides:
            raise ConfigError("config field device: got 'cuda:9'")

    study = make_study()
    study.check = check
    with pytest.raises(StudyError, match="This machine cannot run .*method=focal.*cuda:9"):
        study.run(LocalRunner(workers=1), progress=False)
    assert log("start") == [] and study.status() == {"waiting": 12} and not study.store.exists()
    assert study.run(here, progress=False) == {"done": 12}  # a runner of other machines checks there
    study.run(LocalRunner(workers=1), progress=False)  # nothing is left to run


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("device=cuda:9", "field device"),
        ("context.length=100000000", "GB"),
        ("encoder.hidden=[1000000000]", "GB"),
        ("dataset.root=/dev/null", "field dataset.root"),
        ("dataset.path=nowhere", "missing"),
    ],
)
def test_the_default_check_is_that_of_a_run(change, message):
    with pytest.raises(ValueError, match=message):
        check_run(["preset=smoke", "context.kind=transitions", change])
