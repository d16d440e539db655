"""How far a study is, how long the rest takes, and what it costs to say so."""

from __future__ import annotations

from collections import Counter

import pytest

from ctmrl_torchrl.machine import processor
from ctmrl_torchrl.studies import grid
from ctmrl_torchrl.studies.estimates import Cost, seconds_left
from ctmrl_torchrl.studies.grid import PlannedRun
from ctmrl_torchrl.studies.records import RunRecord

FACTORS = {"method": ["ctmrl", "focal"], "seed": [0, 1]}


def planned(**levels):
    return PlannedRun(levels, (), {}, "data")


def test_a_meta_test_of_another_runs_agent_costs_the_meta_test(make_study, here):
    """Its summary says 36 seconds, which are those of the training that it inherited."""
    study = make_study({"factors": FACTORS, "protocols": ["np"]})
    study.run(here, progress=False)
    more = make_study({"factors": FACTORS, "protocols": ["np", "none"]})
    assert more.plan().seconds_left is None  # no meta-test alone has finished, and no training of this study
    first = make_study({"factors": FACTORS | {"method": ["ctmrl"]}, "protocols": ["np", "none"]})
    first.run(here, progress=False)
    record = first.record(first.runs[0])
    assert record.inherits and record.seconds == 36.0 and 0 < record.own_seconds < 10
    assert more.status() == {"done": 2, "waiting": 2}
    assert 0 < more.plan().seconds_left < 20  # of two meta-tests
    longer = make_study({"factors": FACTORS | {"seed": [0, 1, 2]}, "protocols": ["np", "none"]})
    assert 72.0 < longer.plan().seconds_left < 72.0 + 20  # of two trainings besides


def test_a_run_that_trained_itself_after_all_tells_the_whole_time(tmp_path):
    record = RunRecord(tmp_path, "key")
    attempt = {"state": "done", "resumed": False, "started": 0.0, "seconds": 1.0}
    record.attempts = [attempt | {"resumed": True, "trained_by": "other"}, attempt | {"resumed": True}]
    assert record.inherits
    record.attempts.append(attempt | {"trained_by": None})
    assert not record.inherits and record.own_seconds == 3.0


@pytest.mark.parametrize(("made_on", "here"), [(None, True), (processor(), True), ("another", False)])
def test_a_cost_tells_whether_it_was_measured_here(made_on, here, tmp_path):
    record = RunRecord(tmp_path, "key")
    attempt = {"state": "done", "resumed": False, "started": 0.0, "seconds": 1.0}
    record.attempts = [attempt, attempt | ({} if made_on is None else {"processor": made_on})]
    assert Cost.of(record).here == here


def test_estimates_take_the_nearest_run_of_the_same_kind():
    a, b = planned(env="a"), planned(env="b")
    finished = [(a, Cost(100.0)), (b, Cost(200.0, test=20.0))]
    assert seconds_left([(a, False)], finished) == 100.0
    assert seconds_left([(b, False)], finished) == 200.0  # the training that it inherited tells the time
    assert seconds_left([(a, True)], finished) == 20.0
    assert seconds_left([(a, True)], finished[:1]) == 100.0
    elsewhere = (a, Cost(10.0, here=False))
    assert seconds_left([(a, False)], [*finished, elsewhere]) == 100.0
    assert seconds_left([(a, False)], [finished[1], elsewhere]) == 10.0  # nearer than a run of this machine
    assert seconds_left([(a, True)], []) is None and seconds_left([], finished) == 0.0


@pytest.mark.parametrize(("workers", "left"), [(1, 72.0), (2, 36.0), (16, 36.0)])
def test_no_more_workers_count_than_there_are_open_runs(workers, left, make_study, here):
    make_study({"factors": {"method": ["ctmrl"], "seed": [0]}}).run(here, progress=False)
    study = make_study({"factors": {"method": ["ctmrl"], "seed": [0, 1, 2]}})
    here.workers = workers
    assert study.plan().seconds_left == 72.0
    assert study._measured(here) == (0, 0, left)
    study.run(here, progress=False)
    assert study._measured(here) == (0, 0, 0.0)


def test_identities_are_computed_once_and_states_read_once_a_line(make_study, here, monkeypatch):
    computed, read = Counter(), Counter()
    for name in ("identity_of", "training_of"):
        original = getattr(grid, name)

        def counting(configuration, data, code="", original=original, name=name):
            computed[name] += 1
            return original(configuration, data, code)

        counting.__name__ = name
        monkeypatch.setattr(grid, name, counting)
    state = RunRecord.state
    monkeypatch.setattr(RunRecord, "state", lambda self: read.update([self.key]) or state(self))
    study = make_study()
    study.run(here, progress=False)
    study._measured(here)
    assert computed == {"identity_of": 12, "training_of": 12}
    read.clear()
    study._measured(here)
    assert set(read.values()) == {1} and len(read) == 12


def test_changed_data_change_the_identity(make_study, here):
    study = make_study({"factors": FACTORS})
    study.run(here, progress=False)
    before = study.key(study.runs[0])
    assert before == study.key(study.runs[0])
    for file in (study.store / "datasets").iterdir():
        file.write_text('{"fingerprint": "other"}')
    assert study.key(study.runs[0]) not in (None, before)
