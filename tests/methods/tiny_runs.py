"""Runs of a second, composed from the YAML files of a method, and what a resumed run must equal."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import torch

from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer

SMALL = (
    "preset=smoke",
    "device=cpu",
    "sizes.encoder_hidden=[8]",
    "sizes.predictor_hidden=[8]",
    "sizes.policy_hidden=[8]",
    "encoder.context_dim=4",
    "batch.tasks=4",
    "batch.transitions=8",
    "context.trajectories=[1,2]",
    "schedule.updates=8",
    "evaluation.every=0",
    "evaluation.final_repeats=1",
    "evaluation.episodes=4",
    "evaluation.random_episodes=2",
    "evaluation.candidates=2",
    "output.log_every=2",
    "output.checkpoint_every=2",
    "output.logger=none",
    "output.progress=false",
    "output.figures=false",
)
PROTOCOLS = "evaluation.protocols=[offline,online,np,np_refine,codes,np_csro,idaq]"


class Killed(BaseException):
    """The process is killed."""


def tiny(root, run_dir, *overrides, **fields):
    """A configuration composed as on the command line."""
    places = (f"dataset.root={root}", f"run_dir={run_dir}")
    config = compose_config([*SMALL, *places, *overrides])
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def rows_of(run_dir):
    with (Path(run_dir) / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def outcome(run_dir):
    """State, summary and log of a run, without times."""
    state = torch.load(Path(run_dir) / "checkpoints" / "last.pt", weights_only=True)["state"]
    summary = json.loads((Path(run_dir) / "summary.json").read_text())
    state.pop("seconds")
    return state, {**summary, "wall_time_s": None}, rows_of(run_dir)


def assert_same(first, second, where="state"):
    """Bit for bit, through dictionaries and lists."""
    assert type(first) is type(second), where
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first:
            assert_same(first[key], second[key], f"{where}.{key}")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), where
        for index, (one, other) in enumerate(zip(first, second, strict=True)):
            assert_same(one, other, f"{where}[{index}]")
    elif isinstance(first, torch.Tensor):
        assert torch.equal(first, second), where
    else:
        assert first == second, where


def reached(loss, value):
    """Names of the submodules that a term's gradient reaches."""
    named = [(name, each) for name, each in loss.named_parameters() if each.requires_grad]
    gradients = torch.autograd.grad(value, [each for _, each in named], allow_unused=True, retain_graph=True)
    found = zip((name for name, _ in named), gradients, strict=True)
    return {name.split(".")[0] for name, gradient in found if gradient is not None and gradient.any()}


def check_resume(config_of, tmp_path, monkeypatch, kill_at=5):
    """Kill a run before update ``kill_at``, resume it, and compare with an uninterrupted one."""
    run_experiment(config_of(tmp_path / "whole"))
    update = MetaTrainer.update

    def killing(self, batch):
        if self.update_count == kill_at:
            raise Killed
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "update", killing)
        try:
            run_experiment(config_of(tmp_path / "parts"))
        except Killed:
            pass
        else:
            raise AssertionError("the run was not killed")
    torch.manual_seed(99)  # whatever the process did before
    run_experiment(config_of(tmp_path / "parts", resume=str(tmp_path / "parts")))
    assert_same(outcome(tmp_path / "parts"), outcome(tmp_path / "whole"))
