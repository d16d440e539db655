"""Attempts at one run that end at awkward moments: the next attempt, or the study, makes up for them."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass, field

import pytest
from fakes import FakeRun

from ctmrl_torchrl.stopping import Stopped
from ctmrl_torchrl.studies.attempts import Attempt
from ctmrl_torchrl.studies.jobs import Job, Outcome
from ctmrl_torchrl.studies.records import RunRecord, trained_run
from ctmrl_torchrl.training import run_folder
from ctmrl_torchrl.training.checkpoint import save_checkpoint
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.run_folder import RunFolder, check_run_dir


class Killed(BaseException):
    """The process ends here, without a word."""


def nothing(folder):
    pass


def killed(*arguments):
    raise Killed


@dataclass
class InItsFolder:
    """A run that treats its folder as a training does.

    Args:
        run: what it does there. before, begun, written: called with the folder before it makes room, after
            that, and after the results were written.
    """

    run: FakeRun
    before: object = nothing
    begun: object = nothing
    written: object = nothing
    overrides: list = field(default_factory=list)

    def __call__(self, overrides):
        self.overrides = list(overrides)
        mine = ("run_dir=", "resume=", "overwrite=")
        config = compose_config(["preset=smoke", *(each for each in overrides if each.startswith(mine))])
        path = check_run_dir(config)
        checkpoint = path / "checkpoints" / "last.pt"
        if config.resume == str(path) and checkpoint.read_text() == "nonsense":
            raise ValueError("not a checkpoint")
        self.before(path)
        folder = RunFolder(path)
        try:
            folder.begin(config)
            self.begun(path)
            self.run(overrides)
            self.written(path)
            folder.finish()
        finally:
            folder.release()


def spoil(folder):
    checkpoint = folder / "checkpoints" / "last.pt"
    checkpoint.parent.mkdir(exist_ok=True)
    checkpoint.write_text("nonsense")
    (folder / "metrics.csv").write_text("update\n")
    raise Killed


@pytest.fixture
def job(tmp_path):
    return Job("key", ("seed=1",), str(tmp_path / "store"), "this run", "training")


@pytest.fixture
def run(tmp_path):
    return FakeRun(str(tmp_path / "log"))


def states(job):
    return [attempt["state"] for attempt in RunRecord(job.store, job.key).attempts]


def after_a_failed_resume(job, run):
    """The checkpoint cannot be resumed from, as an attempt has found out."""
    with pytest.raises(Killed):
        Attempt(InItsFolder(run, begun=spoil))(job)
    assert Attempt(InItsFolder(run))(job).error == "not a checkpoint"
    return RunRecord(job.store, job.key).folder


@pytest.mark.parametrize("moment", ["before making room", "while making room", "with room made"])
def test_a_run_that_is_killed_before_its_own_checkpoint_can_still_be_run(moment, job, run, monkeypatch):
    folder = after_a_failed_resume(job, run)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        if moment == "while making room":
            patch.setattr(run_folder.os, "rename", killed)
        before = killed if moment == "before making room" else nothing
        Attempt(InItsFolder(run, before=before, begun=killed))(job)
    assert (folder / "checkpoints" / "last.pt").exists() == (moment != "with room made")
    outcome = Attempt(InItsFolder(run))(job)
    assert (outcome.state, outcome.error) == ("done", "")
    assert states(job) == ["lost", "failed", "lost", "done"]
    assert not (folder / "replaced-run").exists()


def test_a_run_that_is_killed_between_two_moves_can_still_be_run(job, run, monkeypatch):
    folder = after_a_failed_resume(job, run)
    rename = run_folder.os.rename

    def once(source, target):
        rename(source, target)
        if source.name == "last.pt":
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_folder.os, "rename", once)
        Attempt(InItsFolder(run))(job)
    assert not (folder / "checkpoints" / "last.pt").exists()
    assert Attempt(InItsFolder(run))(job).state == "done"


def test_a_run_that_started_afresh_goes_on_from_its_new_checkpoint(job, run):
    folder = after_a_failed_resume(job, run)

    def new_checkpoint(path):
        (path / "checkpoints").mkdir(exist_ok=True)
        (path / "checkpoints" / "last.pt").write_text("3 1.0")
        raise Killed

    with pytest.raises(Killed):
        Attempt(InItsFolder(run, begun=new_checkpoint))(job)
    last = InItsFolder(run)
    assert Attempt(last)(job).state == "done"
    assert f"resume={folder}" in last.overrides and "overwrite=true" not in last.overrides


def test_a_first_attempt_overwrites_nothing(job, run):
    first = InItsFolder(run)
    assert Attempt(first)(job).state == "done"
    assert "overwrite=true" not in first.overrides


def full(folder):
    raise OSError(28, "No space left on device", "figures/returns.png")


def stopped(folder):
    raise Stopped(signal.SIGTERM, "stopped")


@pytest.mark.parametrize(
    ("ending", "message"), [(full, "OSError: .*No space left"), (stopped, "stopped .exit status 143")]
)
def test_a_run_that_ends_after_its_results_is_done_and_says_so(ending, message, job, run):
    folder = after_a_failed_resume(job, run)
    outcome = Attempt(InItsFolder(run, written=ending))(job)
    assert outcome.state == "done" and re.search(message, outcome.error)
    record = RunRecord(job.store, job.key)
    assert record.state() == "done" and record.settled and record.error == outcome.error
    assert not (folder / "replaced-run").exists()
    assert trained_run(job.store, job.training) == folder


def test_a_run_that_is_killed_after_its_results_is_settled_later(job, run, log):
    folder = after_a_failed_resume(job, run)
    with pytest.raises(Killed):
        Attempt(InItsFolder(run, written=killed))(job)
    assert (folder / "replaced-run").exists() and trained_run(job.store, job.training) is None
    assert Attempt(InItsFolder(run))(job).state == "done"
    assert states(job)[-1] == "done" and len(log("end")) == 1
    assert not (folder / "replaced-run").exists()
    assert trained_run(job.store, job.training) == folder


class Noticing:
    """A runner that notices when the process of a run has ended."""

    workers = 1

    def run(self, work, jobs):
        for job in jobs:
            try:
                yield work(job)
            except Killed:
                yield Outcome(job.key, "lost", "the worker process ended")


class Losing:
    """A runner whose process is lost the first times, after so many updates in the run's checkpoint."""

    workers = 1

    def __init__(self, *updates):
        self.updates, self.checkpoint = list(updates), None

    def run(self, work, jobs):
        for job in jobs:
            if job.training and self.updates:
                yield self.lose(job, self.updates.pop(0))
                continue
            if self.checkpoint is not None:  # this is none that the stand-in for a run can read
                self.checkpoint.unlink()
                self.checkpoint = None
            yield work(job)

    def lose(self, job, updates):
        record = RunRecord(job.store, job.key)
        record.start(job)
        if updates is not None:
            self.checkpoint = record.folder / "checkpoints" / "last.pt"
            save_checkpoint(self.checkpoint, {"update": updates}, {})
        return Outcome(job.key, "lost", "the worker process ended")


ONE = {"factors": {"method": ["ctmrl"], "seed": [0]}, "protocols": ["np"]}


@pytest.fixture
def ending(make_study):
    """A study whose run is killed after its results were written."""
    study = make_study(ONE)
    run = study.execute

    def execute(overrides):
        run(overrides)
        raise Killed

    study.execute = execute
    return study


def test_a_study_counts_a_run_whose_process_ended_after_its_results(ending, monkeypatch, log):
    done = []
    monkeypatch.setattr("ctmrl_torchrl.studies.progress.Progress.advance", lambda self: done.append(self))
    assert ending.run(Noticing(), progress=False) == {"done": 1}
    assert len(done) == 1 and len(log("start")) == 1 and ending.record(ending.runs[0]).settled


def test_a_study_that_was_killed_settles_its_finished_runs(ending, make_study, here, log):
    with pytest.raises(Killed):
        ending.run(here, progress=False)
    assert make_study(ONE).run(here, progress=False) == {"done": 1}
    more = make_study(ONE | {"protocols": ["np", "none"]})
    assert more.run(here, progress=False) == {"done": 1}
    assert [line.split()[1] for line in log("start")] == ["0", "8"]  # nothing is trained again
    assert ending.record(ending.runs[0]).settled


def test_an_error_after_the_results_is_a_warning(make_study, here, monkeypatch):
    study, lines = make_study(ONE), []
    run = study.execute

    def late(overrides):
        run(overrides)
        full(None)

    study.execute = late
    monkeypatch.setattr("ctmrl_torchrl.studies.study.torchrl_logger.warning", lines.append)
    assert study.run(here, progress=False) == {"done": 1}
    (line,) = lines
    assert "method=ctmrl seed=0 is done, but after its results were written: OSError" in line


def test_losses_and_failures_are_counted_separately(make_study):
    """Lost, lost, failed: the failure is retried once, as promised."""
    study = make_study(ONE, failing=("method=ctmrl",), once=True)
    assert study.run(Losing(None, None), progress=False) == {"done": 1}
    states = [attempt["state"] for attempt in study.record(study.runs[0]).attempts]
    assert states == ["lost", "lost", "failed", "done"]
    hopeless = make_study(ONE, root="hopeless", failing=("method=ctmrl",))
    assert hopeless.run(Losing(None, None), progress=False) == {"failed": 1}
    assert hopeless.record(hopeless.runs[0]).error == "the loss is not finite"


@pytest.mark.parametrize(
    ("updates", "status"),
    [
        ((1, 2, 3, 4, 5), {"done": 1}),  # time limits of a run that gets further
        ((None, 2, 2, 3, 3), {"done": 1}),
        ((1, 2, 2, 2), {"failed": 1}),
        ((5, 5, 5), {"failed": 1}),
        ((None, None, None), {"failed": 1}),
        ((3, 2, 2), {"failed": 1}),
    ],
)
def test_a_run_is_given_up_after_three_losses_without_progress(updates, status, make_study):
    study = make_study(ONE)
    assert study.run(Losing(*updates), progress=False) == status
    if "failed" in status:
        said = "the worker process ended, 3 times; out of memory?"
        assert study.record(study.runs[0]).error == said
