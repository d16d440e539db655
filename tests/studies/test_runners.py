"""Runners: each job has one outcome, whatever becomes of its process; killed studies give the same table."""

from __future__ import annotations

import importlib.util
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from light import Note, Patient

from ctmrl_torchrl.registry import UnknownChoiceError
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.studies.config import study_text
from ctmrl_torchrl.studies.errors import StudyError
from ctmrl_torchrl.studies.jobs import Job
from ctmrl_torchrl.studies.runners import RUNNERS, LocalRunner, make_runner
from ctmrl_torchrl.studies.runners import local as local_module
from ctmrl_torchrl.studies.runners.memory import _of_container, _of_machine, available_memory

FOLDER = Path(__file__).parent
HAS = {name: importlib.util.find_spec(name) is not None for name in ("ray", "submitit")}


def jobs(*keys):
    return [Job(key, (), "store") for key in keys]


def test_local_runs_everything_in_other_processes_with_one_thread():
    outcomes = list(LocalRunner(workers=2).run(Note(), jobs("a", "b", "c")))
    assert sorted((each.key, each.state) for each in outcomes) == [(key, "done") for key in "abc"]
    processes = {each.value.split()[0] for each in outcomes}
    assert str(os.getpid()) not in processes and len(processes) <= 2
    assert {each.value.split()[1] for each in outcomes} == {"1"}


def test_a_process_that_is_killed_takes_only_its_own_job_with_it():
    outcomes = {each.key: each for each in LocalRunner(workers=2).run(Note(0.3), jobs("dies", "a", "b"))}
    assert [outcomes[key].state for key in ("dies", "a", "b")] == ["lost", "done", "done"]
    assert "ended" in outcomes["dies"].error


STOPPED_STUDY = """
import os, signal, sys, threading, time
from light import Patient
from ctmrl_torchrl.stopping import stop_signals
from ctmrl_torchrl.studies.jobs import Job
from ctmrl_torchrl.studies.runners import LocalRunner

def stop():
    while not os.path.exists(sys.argv[1]) or open(sys.argv[1]).read().count("start") < 2:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

threading.Thread(target=stop).start()
with stop_signals():
    list(LocalRunner(workers=2).run(Patient(sys.argv[1]), [Job(key, (), "store") for key in "abc"]))
"""


def test_a_study_that_is_stopped_lets_its_runs_write_their_checkpoints(tmp_path):
    log = tmp_path / "log"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(FOLDER), *sys.path])}
    process = subprocess.run(
        [sys.executable, "-c", STOPPED_STUDY, str(log)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 128 + signal.SIGTERM
    assert process.stderr == ""  # no process was killed that still held semaphores
    assert sorted(log.read_text().split("\n")) == ["", "checkpoint a", "checkpoint b", "start a", "start b"]


def test_a_run_that_is_stopped_from_outside_is_lost_and_its_process_goes_on(tmp_path):
    log = tmp_path / "log"
    outcomes = LocalRunner(workers=1).run(Patient(str(log)), jobs("a"))

    def stop():
        while not log.exists():
            time.sleep(0.02)
        for child in multiprocessing.active_children():
            child.terminate()

    threading.Thread(target=stop).start()
    (outcome,) = outcomes
    assert outcome.state == "lost" and "stopped (exit status 143)" in outcome.error
    assert log.read_text().split("\n") == ["start a", "checkpoint a", ""]


def test_memory_holds_back_all_runs_but_one(monkeypatch):
    started = []

    class Slot(local_module._Slot):
        def submit(self, work, job):
            started.append((job.key, time.monotonic()))
            return super().submit(work, job)

    monkeypatch.setattr(local_module, "_Slot", Slot)
    monkeypatch.setattr(local_module, "available_memory", lambda: 1024)
    outcomes = list(LocalRunner(workers=2).run(Note(0.2), jobs("a", "b")))
    assert [each.key for each in outcomes] == ["a", "b"] and started[1][1] - started[0][1] >= 0.2


def test_memory_of_machine_and_container(tmp_path):
    assert available_memory() > 0
    (tmp_path / "meminfo").write_text("MemTotal: 10 kB\nMemAvailable:    7 kB\n")
    assert _of_machine(tmp_path / "meminfo") == 7 * 1024 and _of_machine(tmp_path / "none") is None
    assert _of_container(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    assert _of_container(tmp_path) == 100
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 300\n")
    assert _of_container(tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert _of_container(tmp_path) is None


def test_runners_are_chosen_by_name_and_their_options_checked():
    assert make_runner({"name": "local"}).workers >= 1
    assert (
        make_runner({"name": "slurm", "minutes": 60, "parameters": {"slurm_partition": "cpu"}}).minutes == 60
    )
    with pytest.raises(UnknownChoiceError, match="Unknown runner 'rey'. Did you mean 'ray'"):
        make_runner({"name": "rey"})
    with pytest.raises(ConfigError, match="runner.worker: .*Did you mean 'workers'"):
        make_runner({"name": "local", "worker": 2})
    with pytest.raises(ConfigError, match="runner.workers: got 0"):
        make_runner({"name": "local", "workers": 0})
    assert make_runner({"name": "ray", "gpus": 0.25}).gpus == 0.25
    with pytest.raises(ConfigError, match="runner.gpus: got -1"):
        make_runner({"name": "ray", "gpus": -1})


def test_a_users_own_runner(make_study, here):
    RUNNERS.register("mine", dataclass(type("Mine", (type(here),), {})))
    try:
        assert make_study({"runner": {"name": "mine"}}).run(progress=False) == {"done": 12}
    finally:
        RUNNERS.unregister("mine")


@pytest.mark.parametrize(("name", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_what_a_runner_needs_is_named(name, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(StudyError, match=rf"pip install 'ctmrl_torchrl\[{name}\]'"):
        list(make_runner({"name": name}).run(Note(), jobs("a")))


def table(study):
    return (study.report().parent / "returns-test.csv").read_text()


PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
from fakes import FakeData, FakeRun, resolve
from ctmrl_torchrl.studies import Study, load_study
study = Study(load_study({file!r}), {root!r}, resolve=resolve, prepare=FakeData({data!r}),
              execute=FakeRun({log!r}, pause=0.05))
study.run(progress=False)
"""


def killed_at(process, log, steps):
    """Kill a process after so many further steps, unless it ends before; whether it was killed."""
    begun, limit = len(log("step")), time.monotonic() + 120
    while len(log("step")) - begun < steps and time.monotonic() < limit:
        if os.waitpid(process, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.002)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return True


def check_the_end(killed, undisturbed, log, kills):
    assert killed.status() == {"done": 12}
    assert table(killed) == table(undisturbed)
    # finished runs were not repeated, and interrupted ones went on from where they were
    ends = log("end")
    assert len(ends) == len(set(ends)) == 12
    assert any(not line.startswith("start 0 ") for line in log("start"))
    assert len(log("step")) <= 12 * 8 + kills  # no more than the step that was under way, again


@pytest.mark.ci
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_study_killed_at_random_moments_gives_the_same_table(make_study, here, tmp_path, log):
    undisturbed = make_study(root="undisturbed")
    undisturbed.run(here, progress=False)
    (tmp_path / "log").unlink()
    moments, kills = random.Random(5), 0
    for _ in itertools.count():
        process = os.fork()
        if process == 0:
            status = make_study(root="killed", pause=0.004).run(here, progress=False)
            os._exit(0 if status == {"done": 12} else 1)
        if not killed_at(process, log, moments.randint(3, 25)):
            break
        kills += 1
    assert kills >= 4
    check_the_end(make_study(root="killed"), undisturbed, log, kills)


@pytest.mark.slow
def test_processes_end_with_their_study_and_the_next_one_goes_on(make_study, here, tmp_path, log):
    """The process of the study is killed; its workers run the steps that are under way, and end."""
    changes = {"runner": {"name": "local", "workers": 3}}
    undisturbed = make_study(changes, root="undisturbed")
    undisturbed.run(here, progress=False)
    (tmp_path / "log").unlink()
    (tmp_path / "small.yaml").write_text(study_text(undisturbed.config))
    program = PROGRAM.format(
        folder=str(FOLDER),
        file=str(tmp_path / "small.yaml"),
        root=str(tmp_path / "killed"),
        data=str(tmp_path / "data.log"),
        log=str(tmp_path / "log"),
    )
    moments, kills = random.Random(5), 0
    for steps in [*(moments.randint(4, 20) for _ in range(5)), 10**9]:
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", program])
        kills += killed_at(process.pid, log, steps)
    assert kills >= 4
    check_the_end(make_study(changes, root="killed"), undisturbed, log, kills * 3 * 12)


@pytest.mark.slow
def test_workers_that_die_are_gone_on_with(make_study, here, log):
    study = make_study(
        {"runner": {"name": "local", "workers": 2}}, root="dying", dying=("seed=1",), once=True
    )  # fmt: skip
    assert study.run(progress=False) == {"done": 12}
    assert sum(line.startswith("start 5 ") for line in log("start")) == 4
    undisturbed = make_study(root="undisturbed")
    undisturbed.run(here, progress=False)
    assert table(study) == table(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not HAS["ray"], reason="Ray is not installed")
def test_ray_with_a_worker_killed_in_the_middle(make_study, here, log):
    runner = {"name": "ray", "workers": 2}
    study = make_study({"runner": runner}, root="ray", dying=("seed=1",), once=True)
    assert study.run(progress=False) == {"done": 12}
    assert sum(line.startswith("start 5 ") for line in log("start")) == 4
    undisturbed = make_study(root="undisturbed")
    undisturbed.run(here, progress=False)
    assert table(study) == table(undisturbed)


#: starts a cluster, says its address, and keeps it until its input ends
_CLUSTER = """
import os, sys
os.environ["RAY_AUTH_MODE"] = "disabled"
import ray
print(ray.init(num_cpus=2, include_dashboard=False).address_info["address"], flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.skipif(not HAS["ray"], reason="Ray is not installed")
def test_ray_on_a_running_cluster_by_its_address(make_study, here, log, monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head = [sys.executable, "-W", "ignore", "-c", _CLUSTER]
    with subprocess.Popen(head, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        address = next(line for line in cluster.stdout if ":" in line and " " not in line).strip()
        study = make_study({"runner": {"name": "ray", "address": address}}, root="ray")
        assert study.run(progress=False) == {"done": 12}
        assert cluster.poll() is None  # a study leaves a cluster that it has not started
        cluster.stdin.close()
    undisturbed = make_study(root="undisturbed")
    undisturbed.run(here, progress=False)
    assert table(study) == table(undisturbed)


@pytest.mark.slow
@pytest.mark.skipif(not HAS["submitit"], reason="submitit is not installed")
def test_slurm_by_submitits_local_executor(make_study, here, log):
    runner = {"name": "slurm", "cluster": "local", "minutes": 5, "poll": 0.2}
    factors = {"env": ["point_robot"], "method": ["ctmrl", "focal"], "seed": [0, 1]}
    changes = {"factors": factors, "runner": runner}
    study = make_study(changes, root="slurm", dying=("seed=1",), once=True)
    assert study.run(progress=False) == {"done": 4}
    assert sum(line.startswith("start 5 ") for line in log("start")) == 2
    undisturbed = make_study(changes, root="undisturbed")
    undisturbed.run(here, progress=False)
    assert table(study) == table(undisturbed)
