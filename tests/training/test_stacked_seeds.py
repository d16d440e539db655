"""Several seeds in one process: every agent ends where its single run ends."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_experiments import metric_rows, tiny_config

from ctmrl_torchrl.methods import CQVAEConfig, NoRepresentationConfig, Part
from ctmrl_torchrl.modules.encoder_configs import TaskParametersConfig
from ctmrl_torchrl.objectives.policy import IQLConfig
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.stopping import Stopped
from ctmrl_torchrl.training import experiment
from ctmrl_torchrl.training.checkpoint import load_checkpoint
from ctmrl_torchrl.training.experiment import prepare, run_experiment, run_seeds
from ctmrl_torchrl.training.identity import run_identity
from ctmrl_torchrl.training.stacked import StackedTrainer

SEEDS = (0, 4)
RELABELLED = {"representation.relabelled_fraction": 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stacked")


def config(folder, kind, seed, **fields):
    return tiny_config(folder / "data", folder / f"{kind}-{seed}", RELABELLED, seed=seed, **fields)


@pytest.fixture(scope="module")
def runs(folder):
    """Summaries of the single runs, and of the stack."""
    single = [run_experiment(config(folder, "single", seed)) for seed in SEEDS]
    return single, run_seeds([config(folder, "stacked", seed) for seed in SEEDS], "the command")


def checkpoint(folder, kind, seed):
    identity = run_identity(config(folder, kind, seed))
    return load_checkpoint(folder / f"{kind}-{seed}" / "checkpoints" / "last.pt", identity)


def assert_close(first, second):
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_close(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_close(one, other)
    elif isinstance(first, (torch.Tensor, float)):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    else:
        assert first == second


@pytest.mark.parametrize("seed", SEEDS)
def test_agents_optimizers_and_random_states_are_those_of_single_runs(runs, folder, seed):
    single, stacked = (checkpoint(folder, kind, seed) for kind in ("single", "stacked"))
    for name in ("update", "loss", "optimizer", "parts", "sampling", "torch_rng", "recent"):
        assert_close(single[name], stacked[name])


def test_a_checkpoint_holds_one_agent_alone(runs, folder):
    for seed in SEEDS:
        single, stacked = (
            (folder / f"{kind}-{seed}" / "checkpoints" / "last.pt").stat().st_size
            for kind in ("single", "stacked")
        )
        assert stacked == pytest.approx(single, rel=0.01)


def test_logs_and_returns_are_those_of_single_runs(runs, folder):
    for seed, alone, together in zip(SEEDS, *runs, strict=True):
        assert_close(alone["returns"], together["returns"])
        assert together["seed"] == seed and together["command"] == "the command"
        written = json.loads((folder / f"stacked-{seed}" / "summary.json").read_text())
        assert written["returns"] == together["returns"]
        own, shared = (metric_rows(folder / f"{kind}-{seed}") for kind in ("single", "stacked"))
        assert [row[:2] for row in own] == [row[:2] for row in shared]
        assert_close([float(row[2]) for row in own], [float(row[2]) for row in shared])


def test_seeds_differ(runs, folder):
    first, second = (checkpoint(folder, "stacked", seed)["loss"] for seed in SEEDS)
    name = "representation.codebook.codes"
    assert not torch.allclose(first[name], second[name])


def test_a_seed_of_a_stack_goes_on_alone(runs, folder):
    path = folder / "stacked-4"
    longer = {**RELABELLED, "evaluation.every": 0}
    on = tiny_config(folder / "data", folder / "on", longer, seed=4, resume=str(path))
    assert run_experiment(on)["updates"] == 20
    fresh = tiny_config(folder / "data", folder / "fresh", longer, seed=4)
    experiment = prepare(fresh)
    experiment.trainer.resume(path)
    experiment.trainer.updates = 22
    experiment.trainer.train()
    assert experiment.trainer.update_count == 22


def test_iql_is_stacked_too(folder):
    changes = {"schedule.updates": 6, "evaluation.every": 0}
    configs = [
        tiny_config(
            folder / "data", folder / f"iql-{seed}", changes, seed=seed, policy_loss=IQLConfig(hidden=[8])
        )
        for seed in SEEDS
    ]
    together = run_seeds(configs)
    configs[1].run_dir = str(folder / "iql-alone")
    assert_close(run_experiment(configs[1])["returns"], together[1]["returns"])


def test_what_cannot_be_a_stack_is_refused_before_anything_is_written(tmp_path):
    def each(seeds=SEEDS, **fields):
        return [tiny_config(tmp_path, tmp_path / str(i), seed=seed, **fields) for i, seed in enumerate(seeds)]

    same_folder = each()
    same_folder[1].run_dir = same_folder[0].run_dir
    others = each()
    others[1].batch.tasks = 3
    for configs, message in (
        ([], r"seeds: got \[\], allowed is a list of different seeds"),
        (each((1, 1)), r"seeds: got \[1, 1\], allowed is a list of different seeds"),
        (same_folder, "run_dir: got .* a separate folder for every seed"),
        (each(compile=True), "compile: got .* run each seed by itself"),
        (each(resume="runs/x"), "resume: got .* run each seed by itself"),
        (others, "runs that differ in nothing else"),
    ):
        with pytest.raises(ConfigError, match=message):
            run_seeds(configs)
    with pytest.raises(ConfigError, match=r"seeds: got \[0, 1\], allowed is null for a single run"):
        run_experiment(tiny_config(tmp_path, tmp_path / "one", seeds=[0, 1]))
    assert list(Path(tmp_path).iterdir()) == []


def test_trainers_must_be_in_step(folder):
    trainers = [prepare(config(folder, "step", seed)).trainer for seed in SEEDS]
    trainers[1].updates += 1
    with pytest.raises(ValueError, match="the same number of updates"):
        StackedTrainer(trainers, SEEDS)
    for trainer in trainers:
        trainer.update_count = 3
    with pytest.raises(ValueError, match="must be new"):
        StackedTrainer(trainers, SEEDS)


def test_the_oracle_is_stacked_too(folder):
    """A method without a representation has one group of parameters, and no part."""
    changes = {"schedule.updates": 6, "evaluation.every": 0, "evaluation.protocols": ["told"]}
    sections = {"encoder": TaskParametersConfig(), "representation": NoRepresentationConfig()}
    configs = [
        tiny_config(folder / "data", folder / f"oracle-{seed}", changes, seed=seed, **sections)
        for seed in SEEDS
    ]
    together = run_seeds(configs)
    configs[0].run_dir = str(folder / "oracle-alone")
    assert_close(run_experiment(configs[0])["returns"], together[0]["returns"])


class Alone(Part):
    """A part that keeps something of its own that a stack does not know of."""

    name, stackable = "alone", False


def test_a_part_that_cannot_be_stacked_is_refused_before_anything_is_written(folder, tmp_path, monkeypatch):
    codebook_parts = CQVAEConfig.parts
    monkeypatch.setattr(CQVAEConfig, "parts", lambda self, setting: [*codebook_parts(self, setting), Alone()])
    configs = [tiny_config(folder / "data", tmp_path / str(seed), seed=seed) for seed in SEEDS]
    with pytest.raises(ConfigError, match="seeds: the method's part alone cannot be stacked over seeds"):
        run_seeds(configs)
    assert list(tmp_path.iterdir()) == []
    assert run_experiment(configs[0])["updates"] == 20  # by itself it trains


@pytest.mark.parametrize("choice", ["pooling", "all"])
def test_an_encoder_that_learns_from_the_critic_is_stacked_too(choice, folder):
    changes = {"schedule.updates": 6, "evaluation.every": 0, "evaluation.protocols": ["np"]}
    changes |= {"representation.critic_gradient": choice, "encoder.pool": "mean_mlp"}
    configs = [
        tiny_config(
            folder / "data",
            folder / f"critic-{choice}-{seed}",
            changes,
            seed=seed,
            representation=NoRepresentationConfig(),
        )
        for seed in SEEDS
    ]
    together = run_seeds(configs)
    configs[0].run_dir = str(folder / f"critic-{choice}-alone")
    assert_close(run_experiment(configs[0])["returns"], together[0]["returns"])
    states = [
        torch.load(folder / f"critic-{choice}-{name}" / "checkpoints" / "last.pt", weights_only=True)["state"]
        for name in ("alone", SEEDS[0])
    ]
    assert_close(states[0]["loss"], states[1]["loss"])


def test_a_stop_in_a_meta_test_says_how_the_seeds_go_on(folder, monkeypatch):
    stopped = folder / "stopped"
    calls, real = [], experiment.final_meta_test

    def stopping(each):
        calls.append(each)
        if len(calls) == 2:
            raise Stopped(signal.SIGTERM)
        return real(each)

    monkeypatch.setattr(experiment, "final_meta_test", stopping)
    with pytest.raises(Stopped) as caught:
        run_seeds([config(stopped, "stacked", seed) for seed in SEEDS])
    told = "in the final meta-test\nContinue each seed by itself (seed=N instead of seeds=) with resume= "
    assert f"{told}{stopped}" in str(caught.value) and str(caught.value).endswith(f"stacked-{SEEDS[1]}")
    resume = str(stopped / f"stacked-{SEEDS[1]}")
    assert run_experiment(config(stopped, "stacked", SEEDS[1], resume=resume))["seed"] == SEEDS[1]


def test_a_seeds_time_does_not_include_the_meta_tests_of_others(folder, monkeypatch):
    clock, real = [0.0], experiment.final_meta_test

    def slow(each):
        clock[0] += 100.0
        return real(each)

    monkeypatch.setattr(experiment, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(experiment, "final_meta_test", slow)
    summaries = run_seeds([config(folder / "timed", "stacked", seed) for seed in SEEDS])
    assert [summary["wall_time_s"] for summary in summaries] == [100.0, 100.0]
