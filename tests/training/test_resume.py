from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from sameness import assert_same
from tiny_experiments import metric_rows, tiny_config
from torchrl.objectives import HardUpdate

from ctmrl_torchrl.objectives.policy import POLICY_LOSSES, BRACSACConfig, IQLConfig
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.checkpoint import CheckpointError, save_checkpoint
from ctmrl_torchrl.training.experiment import build_experiment, going_on, run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer

# With 20 updates, 16 of them of the representation, 2 per epoch: warm-up before update 4, contexts collected
# from 4 on, K-means at 8, refreshes at 10, 12, 14, encoder fixed from 16 on. Rows of the log at 4, 8, 12, ...
INTERRUPTIONS = {
    "in the warm-up": (2, 3),
    "between collection and K-means, in the middle of a row": (5, 6),
    "with rows logged after the checkpoint": (7, 13),
    "between K-means and a refresh": (9, 9),
    "after the encoder froze": (17, 19),
}


class Killed(BaseException):
    """The process is killed before an update."""


@pytest.fixture
def kill_at(monkeypatch):
    update = MetaTrainer.update

    def kill(number):
        def killing(self, batch):
            if self.update_count == number:
                raise Killed
            return update(self, batch)

        monkeypatch.setattr(MetaTrainer, "update", update if number is None else killing)

    return kill


def outcome(run_dir):
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)["state"]
    summary = json.loads((run_dir / "summary.json").read_text())
    assert state.pop("seconds") > 0
    return state, {**summary, "wall_time_s": None}, metric_rows(run_dir)


@pytest.fixture(scope="module")
def uninterrupted(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    run_experiment(tiny_config(dataset_root, run_dir))
    return run_dir


@pytest.mark.parametrize("where", INTERRUPTIONS)
def test_resumed_equals_uninterrupted_bit_for_bit(where, uninterrupted, dataset_root, tmp_path, kill_at):
    checkpoint_every, killed_at = INTERRUPTIONS[where]
    changes = {"output.checkpoint_every": checkpoint_every}
    kill_at(killed_at)
    with pytest.raises(Killed):
        run_experiment(tiny_config(dataset_root, tmp_path, changes))
    kill_at(None)
    torch.manual_seed(99)  # whatever the process did before
    run_experiment(tiny_config(dataset_root, tmp_path, changes, resume=str(tmp_path)))
    assert_same(outcome(tmp_path), outcome(uninterrupted))


@dataclass
class HardConfig(BRACSACConfig):
    """Targets that are replaced after every eighth policy update, which counts outside of the loss."""

    name: str = "hard"

    def target_update(self, loss):
        return HardUpdate(loss, value_network_update_interval=7)


def test_a_target_update_that_counts_goes_on_counting(dataset_root, tmp_path, kill_at):
    def run(name, **fields):
        changes = {"evaluation.protocols": [], "output.checkpoint_every": 5}
        config = tiny_config(
            dataset_root, tmp_path / name, changes, policy_loss=HardConfig(hidden=[8]), **fields
        )
        run_experiment(config)

    POLICY_LOSSES.register("hard", HardConfig)
    try:
        run("whole")
        kill_at(11)
        with pytest.raises(Killed):
            run("killed")
        kill_at(None)
        run("killed", resume=str(tmp_path / "killed"))
    finally:
        POLICY_LOSSES.unregister("hard")
    whole, killed = outcome(tmp_path / "whole"), outcome(tmp_path / "killed")
    assert_same(killed, whole)
    assert whole[0]["targets"] == {"counter": 4}


@pytest.mark.parametrize("finished", [True, False])
def test_a_finished_agent_of_an_earlier_version_can_still_be_tested(
    finished, dataset_root, tmp_path, kill_at
):
    """Checkpoints once lacked the state of the target update, which only further updates need."""
    changes = {"evaluation.protocols": [], "output.checkpoint_every": 5}
    POLICY_LOSSES.register("hard", HardConfig)
    try:
        config = tiny_config(dataset_root, tmp_path, changes, policy_loss=HardConfig(hidden=[8]))
        kill_at(None if finished else 11)
        with nullcontext() if finished else pytest.raises(Killed):
            run_experiment(config)
        kill_at(None)
        file = tmp_path / "checkpoints" / "last.pt"
        content = torch.load(file, weights_only=True)
        del content["state"]["targets"]
        save_checkpoint(file, content["state"], content["identity"])
        trainer = build_experiment(replace(config, run_dir=str(tmp_path / "again"))).trainer
        with nullcontext() if finished else pytest.raises(CheckpointError, match="lacks entry 'targets'"):
            trainer.resume(file)
            assert trainer.update_count == 20 and trainer.target_update.counter == 0
    finally:
        POLICY_LOSSES.unregister("hard")


def test_rows_are_those_of_the_schedule(uninterrupted):
    steps = [int(step) for step, name, _ in metric_rows(uninterrupted) if name == "loss/loss_actor"]
    assert steps == [4, 8, 12, 16, 20]
    evaluations = [
        int(step) for step, name, _ in metric_rows(uninterrupted) if name == "eval/test/codes/return"
    ]
    assert evaluations == [10, 20]


def test_resumed_in_another_folder_takes_the_rows_along(uninterrupted, dataset_root, tmp_path):
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    run_experiment(tiny_config(dataset_root, tmp_path, resume=str(uninterrupted)))
    assert_same(outcome(tmp_path), outcome(uninterrupted))
    assert before == {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}


OTHERS = {
    "seed": {"seed": 3},
    "method": {"method": "other"},
    "tasks": {"tasks": "paper"},
    "env": {"env": "sparse_point_robot"},
}


@pytest.mark.parametrize("name", OTHERS)
def test_checkpoint_of_another_run_is_refused(name, uninterrupted, dataset_root, tmp_path):
    """On the trainer alone, for a run of another environment would first make its dataset."""
    trainer = build_experiment(tiny_config(dataset_root, tmp_path)).trainer
    trainer.identity |= OTHERS[name]
    check_refusal(trainer, uninterrupted, rf"was written with {name}=.*, but this run has {name}=")


def check_refusal(trainer, path, message):
    file = path if path.is_file() else path / "checkpoints" / "last.pt"
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match=message):
        trainer.resume(path)
    assert file.read_bytes() == before


def test_checkpoint_of_another_policy_loss_is_refused(uninterrupted, dataset_root, tmp_path):
    config = tiny_config(dataset_root, tmp_path, policy_loss=IQLConfig(hidden=[8]))
    check_refusal(
        build_experiment(config).trainer, uninterrupted, "policy_loss.name='brac_sac', but this run has"
    )


def test_checkpoint_of_other_sizes_is_refused(uninterrupted, dataset_root, tmp_path):
    trainer = build_experiment(tiny_config(dataset_root, tmp_path, {"encoder.hidden": [9, 9]})).trainer
    check_refusal(
        trainer, uninterrupted, r"encoder.hidden=\[8, 8\], but this run has encoder.hidden=\[9, 9\]"
    )
    trainer.identity = {}  # should the settings not say so, the sizes do
    check_refusal(trainer, uninterrupted, "(?s)does not fit this run.*config.yaml.*size mismatch")


def test_checkpoint_of_other_data_is_refused(uninterrupted, dataset_root, tmp_path):
    trainer = build_experiment(tiny_config(dataset_root, tmp_path)).trainer
    assert trainer.identity["dataset"]
    trainer.identity["dataset"] = "another"
    check_refusal(trainer, uninterrupted, "this run has dataset='another'")


def test_checkpoint_beyond_the_end_is_refused(uninterrupted, dataset_root, tmp_path):
    trainer = build_experiment(tiny_config(dataset_root, tmp_path, {"schedule.updates": 10})).trainer
    check_refusal(trainer, uninterrupted, "schedule.updates=20, but this run has schedule.updates=10")
    trainer.identity = {}
    check_refusal(trainer, uninterrupted, "at update 20, but this run has schedule.updates=10")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_truncated_checkpoint_is_refused(share, uninterrupted, dataset_root, tmp_path):
    content = (uninterrupted / "checkpoints" / "last.pt").read_bytes()
    file = tmp_path / "last.pt"
    file.write_bytes(content[: int(share * len(content))])
    trainer = build_experiment(tiny_config(dataset_root, tmp_path)).trainer
    check_refusal(trainer, file, "last.pt is not a readable checkpoint")


def test_refused_before_anything_is_written(uninterrupted, dataset_root, tmp_path):
    """The whole run, in the folder of a finished one, with a wrong checkpoint."""
    run_dir = tmp_path / "run"
    run_experiment(tiny_config(dataset_root, run_dir, {"schedule.updates": 2, "evaluation.every": 0}))
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="seed=0, but this run has seed=1"):
        run_experiment(tiny_config(dataset_root, run_dir, seed=1, resume=str(uninterrupted)))
    with pytest.raises(CheckpointError, match="does not lead to a checkpoint; looked for"):
        run_experiment(tiny_config(dataset_root, run_dir, resume=str(tmp_path / "nowhere")))
    assert before == {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}


def test_only_an_unfinished_run_of_the_same_settings_goes_on_unasked(uninterrupted, dataset_root, tmp_path):
    config = tiny_config(dataset_root, uninterrupted)
    assert going_on(config).resume is None  # it has finished
    unfinished = tmp_path / "run"
    shutil.copytree(uninterrupted, unfinished)
    (unfinished / "summary.json").unlink()
    again = replace(config, run_dir=str(unfinished))
    assert going_on(again).resume == str(unfinished)
    assert going_on(replace(again, overwrite=True)).resume is None
    other = replace(again, seed=config.seed + 1)
    assert going_on(other).resume is None
    with pytest.raises(ConfigError, match="already holds a run"):
        run_experiment(other)
    (unfinished / "checkpoints" / "last.pt").write_bytes(b"damaged")
    with pytest.raises(ConfigError, match="already holds a run"):
        run_experiment(again)
