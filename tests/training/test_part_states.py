"""Checkpoints include the states of a method's parts, also while they prepare."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from anchored import PREPARATIONS, UPDATES, PullConfig, pull_config
from sameness import assert_same
from tiny_experiments import metric_rows

from ctmrl_torchrl.methods import REPRESENTATIONS, Part, Parts
from ctmrl_torchrl.training.checkpoint import CheckpointError
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer


@pytest.fixture(autouse=True)
def registered():
    REPRESENTATIONS.register("pull", PullConfig)
    yield
    REPRESENTATIONS.unregister("pull")


class Killed(BaseException):
    """The process is killed."""


def outcome(run_dir):
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert state.pop("seconds") > 0
    summary = json.loads((run_dir / "summary.json").read_text())
    return state, {**summary, "wall_time_s": None}, metric_rows(run_dir)


@pytest.fixture(scope="module")
def uninterrupted(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    REPRESENTATIONS.register("pull", PullConfig)
    run_experiment(pull_config(dataset_root, run_dir))
    REPRESENTATIONS.unregister("pull")
    return run_dir


@pytest.mark.parametrize("after", [1, 3, PREPARATIONS])
def test_a_run_that_is_killed_while_it_prepares_goes_on_there(
    after, uninterrupted, dataset_root, tmp_path, monkeypatch
):
    save = MetaTrainer.save

    def killed(self):
        save(self)
        if self.parts.parts[0].prepared == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "save", killed)
        with pytest.raises(Killed):
            run_experiment(pull_config(dataset_root, tmp_path))
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert state["update"] == 0 and state["parts"]["anchors"]["prepared"] == after
    torch.manual_seed(99)  # whatever the process did before
    run_experiment(pull_config(dataset_root, tmp_path, resume=str(tmp_path)))
    assert_same(outcome(tmp_path), outcome(uninterrupted))


def test_a_run_that_is_killed_later_keeps_the_parts_state(uninterrupted, dataset_root, tmp_path, monkeypatch):
    update = MetaTrainer.update

    def killing(self, batch):
        if self.update_count == 7:
            raise Killed
        return update(self, batch)

    changes = {"output.checkpoint_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "update", killing)
        with pytest.raises(Killed):
            run_experiment(pull_config(dataset_root, tmp_path, changes))
    run_experiment(pull_config(dataset_root, tmp_path, changes, resume=str(tmp_path)))
    assert_same(outcome(tmp_path), outcome(uninterrupted))


def test_states_go_and_come_back_bit_for_bit(uninterrupted, dataset_root, tmp_path):
    state = torch.load(uninterrupted / "checkpoints" / "last.pt", weights_only=True)["state"]["parts"]
    assert state["anchors"]["updates"] == UPDATES and len(state["anchors"]["answers"]) == UPDATES
    fresh = build_experiment(pull_config(dataset_root, tmp_path)).parts
    fresh.load_state_dict(state)
    assert_same(fresh.state_dict(), state)
    with pytest.raises(ValueError, match=r"the checkpoint has the parts \['other'\], this run \['anchors'\]"):
        fresh.load_state_dict({"other": {}})


class Sum(Part):
    """Adds up fractions, beginning with the whole number 0."""

    name, total = "sum", 0

    def after_update(self, update):
        self.total += 0.5

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def test_a_whole_number_may_become_a_fraction(dataset_root, tmp_path):
    trainer = build_experiment(pull_config(dataset_root, tmp_path)).trainer
    trainer.parts = Parts([Sum()])
    trainer.parts.after_update(0)
    state = trainer.state_dict()
    trainer.parts = Parts([Sum()])
    trainer.load_state_dict(state)
    assert trainer.parts.parts[0].total == 0.5


@pytest.mark.parametrize("when", ["from the start", "after an update"])
def test_a_state_that_could_not_be_read_again_is_refused_at_once(when, dataset_root, tmp_path):
    trainer = build_experiment(pull_config(dataset_root, tmp_path)).trainer
    part = Sum()
    trainer.parts = Parts([trainer.parts.parts[0], part])
    if when == "from the start":
        part.total = np.float64(0.0)
    else:
        part.after_update = lambda update: setattr(part, "total", [np.zeros(2)])
    entry = {"from the start": "total is a float64", "after an update": r"total\[0\] is a ndarray"}[when]
    with pytest.raises(
        CheckpointError, match=rf"parts\.sum\.{entry}.*let the part's state_dict return tensors"
    ):
        trainer.train()
    assert trainer.update_count == (when == "after an update")


def test_a_checkpoint_of_other_parts_is_refused(uninterrupted, dataset_root, tmp_path):
    trainer = build_experiment(pull_config(dataset_root, tmp_path)).trainer
    trainer.parts = Parts([])
    message = r"(?s)does not fit this run.*the checkpoint has the parts \['anchors'\], this run \[\]"
    with pytest.raises(CheckpointError, match=message):
        trainer.resume(uninterrupted)
