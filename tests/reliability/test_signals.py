"""SIGTERM and Ctrl-C end a run in two lines with a checkpoint, from which it goes on bit for bit."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
import torch
from sameness import assert_same
from tiny_experiments import metric_rows, tiny_config

from ctmrl_torchrl.data import CollectionRecipe, collect_task_dataset
from ctmrl_torchrl.stopping import Stopped, at_once, deferred, stop_requested, stop_signals
from ctmrl_torchrl.training import experiment as experiment_module
from ctmrl_torchrl.training.experiment import run_experiment, run_seeds
from ctmrl_torchrl.training.tester import MetaTester
from ctmrl_torchrl.training.trainer import MetaTrainer

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def heeded():
    """A shell starts background processes with SIGINT ignored. Then these tests would wait for nothing."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def outcome(run_dir):
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)["state"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert state.pop("seconds") > 0
    return state, {**summary, "wall_time_s": None}, metric_rows(run_dir)


@pytest.fixture(scope="module")
def uninterrupted(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    run_experiment(tiny_config(dataset_root, run_dir))
    return outcome(run_dir)


def signalled(monkeypatch, owner, name, number, call):
    """Have the process send itself a signal in the given call of a method."""
    original, calls = getattr(owner, name), [0]

    def wrapper(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] == call:
            os.kill(os.getpid(), number)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(owner, name, wrapper)


MOMENTS = {
    "in an update": (MetaTrainer, "update", 7, "after update 7 of 20"),
    "in the last update": (MetaTrainer, "update", 20, "after update 20 of 20"),
    "in a meta-test": (MetaTester, "run", 1, "after update 10 of 20"),
    "in the second split of a meta-test": (MetaTester, "run", 2, "after update 10 of 20"),
    "in the meta-test of the last update": (MetaTester, "run", 3, "after update 20 of 20"),
    "in the final meta-test": (MetaTester, "run", 5, "after the training, in the final meta-test"),
}


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_stops_and_goes_on(moment, number, uninterrupted, dataset_root, tmp_path, monkeypatch):
    if number == signal.SIGINT and moment not in ("in an update", "in a meta-test"):
        pytest.skip("the signals differ in their exit status alone")
    owner, name, call, where = MOMENTS[moment]
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        signalled(patch, owner, name, number, call)
        with pytest.raises(Stopped) as stopped:
            run_experiment(tiny_config(dataset_root, tmp_path))
    assert stopped.value.code == CODES[number]
    first, second = str(stopped.value).split("\n")
    assert where in first and second == f"Continue with the same command, or with resume={tmp_path}"
    assert signal.getsignal(number) is before
    assert not (tmp_path / "summary.json").exists()
    torch.manual_seed(99)
    resume = str(tmp_path) if number == signal.SIGINT else None  # both ways go on
    run_experiment(tiny_config(dataset_root, tmp_path, resume=resume))
    assert_same(outcome(tmp_path), uninterrupted)


def test_seeds_stop_together_and_go_on_alone(dataset_root, tmp_path, monkeypatch):
    configs = [tiny_config(dataset_root, tmp_path / str(seed), seed=seed) for seed in (0, 1)]
    with monkeypatch.context() as patch:
        signalled(patch, MetaTester, "run", signal.SIGTERM, 1)
        with pytest.raises(Stopped, match="(?s)after update 10 of 20.*resume=") as stopped:
            run_seeds(configs)
    assert all(str(tmp_path / str(seed)) in str(stopped.value) for seed in (0, 1))
    summary = run_experiment(tiny_config(dataset_root, tmp_path / "1", seed=1, resume=str(tmp_path / "1")))
    assert summary["updates"] == 20 and summary["seed"] == 1


def test_a_collection_stops_and_goes_on_to_the_same_data(tmp_path, monkeypatch):
    from ctmrl_torchrl.data.behaviour.sac import SACAgents

    recipe = CollectionRecipe(
        snapshot_steps=(2, 30), trajectories_per_snapshot=2, hidden_sizes=(8,), gradient_steps_per_episode=5
    )
    expected = collect_task_dataset("point_robot", recipe=recipe, path=tmp_path / "whole")
    with monkeypatch.context() as patch, stop_signals():
        signalled(patch, SACAgents, "update", signal.SIGTERM, 12)
        with pytest.raises(Stopped, match="(?s)in the behavior training, step 15 of 30.*resumes from"):
            collect_task_dataset("point_robot", recipe=recipe, path=tmp_path / "set")
    assert not (tmp_path / "set").exists() and (tmp_path / "set.unfinished").exists()
    got_on = collect_task_dataset("point_robot", recipe=recipe, path=tmp_path / "set")
    assert got_on.manifest.checksums == expected.manifest.checksums
    assert not (tmp_path / "set.unfinished").exists()


def test_a_signal_while_figures_are_drawn_leaves_the_results(dataset_root, tmp_path, monkeypatch):
    def drawing(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr(experiment_module, "draw_figures", drawing)
    with pytest.raises(Stopped):
        run_experiment(tiny_config(dataset_root, tmp_path, {"output.figures": True, "schedule.updates": 3}))
    assert json.loads((tmp_path / "summary.json").read_text())["updates"] == 3
    assert not list(tmp_path.glob("figures*"))


def test_a_second_ctrl_c_insists_and_a_repeated_sigterm_does_not():
    with stop_signals(), deferred():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # passed on by a wrapper, at once
        assert stop_requested() == signal.SIGTERM
        time.sleep(1.1)
        with pytest.raises(Stopped, match="second Ctrl-C"):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped), at_once():
            pass
    assert stop_requested() is None


def test_forked_workers_die_of_sigterm_and_leave_ctrl_c_to_their_parent():
    with stop_signals(), deferred():
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
