"""Runs of a second of any method: composed like on the command line, with tiny networks."""

from __future__ import annotations

import json

import pytest
import torch
from sameness import assert_same

from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer

TINY = (
    "preset=smoke",
    "tasks=repo",
    "schedule.updates=8",
    "schedule.representation_end=0.8",
    "schedule.policy_start=0",
    "batch.tasks=4",
    "batch.transitions=16",
    "sizes.encoder_hidden=[8]",
    "sizes.predictor_hidden=[8]",
    "sizes.policy_hidden=[8]",
    "evaluation.every=0",
    "evaluation.final_repeats=1",
    "evaluation.episodes=2",
    "evaluation.random_episodes=1",
    "output.log_every=2",
    "output.checkpoint_every=3",
    "output.logger=none",
    "output.progress=false",
    "output.figures=false",
    "keep_memory=false",
)


class Killed(BaseException):
    """The process is killed."""


def small_config(method, root, run_dir, *overrides, protocols="[np]"):
    places = (f"dataset.root={root}", f"run_dir={run_dir}", f"evaluation.protocols={protocols}")
    return compose_config([f"method={method}", *TINY, *places, *overrides])


def check_adapts(method, root, run_dir, protocols, *overrides):
    """The agent plays two unseen tasks under every protocol, at the same budget of episodes."""
    budget = ("evaluation.episodes=4", "evaluation.random_episodes=2", "evaluation.candidates=2")
    experiment = build_experiment(
        small_config(method, root, run_dir, *budget, *overrides, protocols=f"[{','.join(protocols)}]")
    )
    experiment.trainer.begin()
    runs = experiment.tester.run(experiment.task_set.test_ids[:2], 1, seed=0)
    experiment.tester.close()
    assert list(runs) == list(protocols)
    for run in runs.values():
        assert run["returns"].shape == (2, 1, 4) and run["returns"].isfinite().all()
        assert (run["episodes"] <= 3).all()
    return runs


def reached(loss, value):
    """Names of the submodules that a term's gradient reaches."""
    named = [(name, each) for name, each in loss.named_parameters() if each.requires_grad]
    gradients = torch.autograd.grad(value, [each for _, each in named], allow_unused=True, retain_graph=True)
    found = zip((name for name, _ in named), gradients, strict=True)
    return {name.split(".")[0] for name, gradient in found if gradient is not None and gradient.any()}


def outcome(run_dir):
    """All that a run leaves, but times."""
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert state.pop("seconds") > 0
    summary = json.loads((run_dir / "summary.json").read_text())
    return state, {**summary, "wall_time_s": None}, (run_dir / "metrics.csv").read_text()


def check_resumed(make_config, uninterrupted, run_dir, killed):
    """A run that ``killed(trainer, moment)`` interrupts goes on to the numbers of the uninterrupted one.

    Args:
        make_config: from run folder and overrides to a configuration.
        uninterrupted (Path): the folder of the finished run. run_dir (Path): of the interrupted one.
        killed: asked before every update and after every checkpoint, with ``"update"`` or ``"save"``.
    """
    update, save = MetaTrainer.update, MetaTrainer.save

    def updating(self, batch):
        if killed(self, "update"):
            raise Killed
        return update(self, batch)

    def saving(self):
        save(self)
        if killed(self, "save"):
            raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MetaTrainer, "update", updating)
        patch.setattr(MetaTrainer, "save", saving)
        with pytest.raises(Killed):
            run_experiment(make_config(run_dir))
    torch.manual_seed(99)  # whatever the process did before
    run_experiment(make_config(run_dir, f"resume={run_dir}"))
    assert_same(outcome(run_dir), outcome(uninterrupted))
