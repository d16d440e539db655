"""Every shipped method as a few small updates, for tests that repeat them in another way."""

from __future__ import annotations

import pytest
import torch

from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer

SMALL = [
    "preset=smoke", "schedule.updates=8", "schedule.representation_end=0.8", "schedule.policy_start=0.3",
    "batch.tasks=4", "batch.transitions=16", "sizes.encoder_hidden=[8]", "sizes.predictor_hidden=[8]",
    "sizes.policy_hidden=[8]", "evaluation.every=0", "output.logger=none", "output.progress=false",
    "keep_memory=false",
]  # fmt: skip
METHODS = sorted(file.stem for file in (config_folder() / "method").glob("*.yaml"))
POLICIES = ["bc", "iql", "iql_standardised", "sac", "td3_bc", "own/csro"]
#: task models of GENTLE whose fit takes no time
FIT = ["representation.model_steps=2", "representation.model_rows=40", "representation.store_rows=40"]
CASES = [["method=ctmrl"], *([f"method={name}"] for name in METHODS if name not in ("ctmrl", "gentle"))]
CASES += [["method=idaq", "representation.ensemble=true", "representation.members=3"]]
CASES += [["method=gentle", *FIT], ["method=gentle", "env=point_robot_wind", *FIT]]
CASES += [["method=anole", "env=point_robot_wind"]]
CASES += [["method=ctmrl", f"policy_loss={name}"] for name in POLICIES]
CASES += [["method=ctmrl", "policy_loss=brac_sac", "policy_loss.behaviour_penalty=true"]]


def trained(overrides, root, run_dir, compile, device="cpu"):
    """All parameters, buffers and random numbers after eight updates."""
    places = [f"dataset.root={root}", f"run_dir={run_dir}", f"compile={compile}", f"device={device}"]
    trainer = build_experiment(compose_config([*overrides, *SMALL, *places])).trainer
    torch.manual_seed(0)
    if compile == "recorded":
        trainer.differentiate.patience = 0
    trainer.begin()
    for _ in range(8):
        trainer.update(trainer.next_batch())
        trainer.update_count += 1
    if compile == "recorded":
        assert trainer.differentiate.recordings > 0
    random = torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()
    return trainer.loss.state_dict(), random


class KilledError(BaseException):
    """The process is killed."""


def whole_and_parted(config, monkeypatch):
    """The last checkpoints of a run, and of the same one that was killed in its sixth update and resumed.

    ``config`` makes a configuration with a run folder of the given name.
    """
    run_experiment(config("whole"))
    update = MetaTrainer.update

    def until_the_fifth(self, batch):
        if self.update_count == 5:
            raise KilledError
        return update(self, batch)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(MetaTrainer, "update", until_the_fifth)
        run_experiment(config("parted"))
    resumed = config("parted")
    resumed.resume = resumed.run_dir
    torch.manual_seed(99)  # of every device
    run_experiment(resumed)
    states = [
        torch.load(f"{config(name).run_dir}/checkpoints/last.pt", weights_only=True)["state"]
        for name in ("whole", "parted")
    ]
    assert all(state.pop("seconds") > 0 for state in states)
    return states
