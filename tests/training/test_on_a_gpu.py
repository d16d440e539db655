"""Every method on a GPU: training, meta-test, resuming, and the ways of running an update."""

from __future__ import annotations

import math

import pytest
import torch
from every_method import CASES, FIT, METHODS, SMALL, trained, whole_and_parted
from sameness import assert_same
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.recorded import RecordedGradients
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment, check_compile_device
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment, run_seeds

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
PROTOCOLS = "evaluation.protocols=[offline,online,np,np_refine,idaq,codes]"
BUDGET = [
    "evaluation.episodes=20",
    "evaluation.random_episodes=4",
    "evaluation.final_repeats=2",
    "output.figures=false",
]
QUICK_FIT = {
    "gentle": FIT,
    "corro": ["representation.contrast_steps=2", "representation.vae_steps=2"],
    "anole": ["evaluation.protocols=[anole]"],
}


def small(root, run_dir, *more):
    places = [f"dataset.root={root}", f"run_dir={run_dir}", "device=cuda"]
    return compose_config([*SMALL, PROTOCOLS, *BUDGET, *places, *more])


@needs_gpu
@pytest.mark.parametrize("overrides", CASES, ids=" ".join)
def test_captured_updates_are_those_as_written(overrides, dataset_root, tmp_path):
    expected = trained(overrides, dataset_root, tmp_path / "written", "false", "cuda")
    found = trained(overrides, dataset_root, tmp_path / "captured", "recorded", "cuda")
    for name, value in expected[0].items():
        assert_same(found[0][name], value, name)
    assert torch.equal(found[1], expected[1])


@needs_gpu
@pytest.mark.parametrize("name", METHODS)
def test_a_run(name, dataset_root, tmp_path, monkeypatch):
    monkeypatch.setitem(RecordedGradients.__init__.__kwdefaults__, "patience", 1)
    summary = run_experiment(
        small(dataset_root, tmp_path, f"method={name}", "compile=recorded", *QUICK_FIT.get(name, []))
    )
    results = summary["returns"]["test"]
    assert results and all(math.isfinite(result["mean"]) for result in results.values())
    assert summary["versions"]["device"] == torch.cuda.get_device_name()


@needs_gpu
@pytest.mark.parametrize("way", ["false", "recorded"])
def test_a_run_continues_exactly(way, dataset_root, tmp_path, monkeypatch):
    def config(name):
        return small(dataset_root, tmp_path / name, f"compile={way}", "output.checkpoint_every=3")

    monkeypatch.setitem(RecordedGradients.__init__.__kwdefaults__, "patience", 1)
    whole, parted = whole_and_parted(config, monkeypatch)
    assert_same(parted, whole)


@needs_gpu
def test_several_seeds(dataset_root, tmp_path):
    summaries = run_seeds([small(dataset_root, tmp_path / str(seed), f"seed={seed}") for seed in (0, 4)])
    assert all(math.isfinite(each["returns"]["test"]["np"]["mean"]) for each in summaries)


@needs_gpu
def test_gradients_that_are_added_up(dataset_root, tmp_path):
    """Two batches before a step: the second does not overwrite the gradients of the first."""
    trainer = build_experiment(small(dataset_root, tmp_path, "compile=recorded")).trainer
    differentiate = trainer.differentiate
    assert isinstance(differentiate, RecordedGradients)
    differentiate.patience = 0
    trainer.begin()
    trainer.update_count = 4  # encoder, codes and policy learn
    batches, random = [trainer.next_batch(), trainer.next_batch()], torch.cuda.get_rng_state()
    state, totals = {name: value.clone() for name, value in trainer.loss.state_dict().items()}, []
    for call in (differentiate, differentiate.as_written):
        torch.cuda.set_rng_state(random)
        trainer.loss.load_state_dict(state)
        trainer.optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            call(batch)
        totals.append([p.grad.clone() for p in trainer.loss.parameters() if p.grad is not None])
    assert differentiate.recordings == 1
    assert all(torch.allclose(one, other, atol=1e-6) for one, other in zip(*totals, strict=True))


class OnTheCPU(nn.Module):
    """A loss with noise and a constant that a graph cannot read."""

    recordable = True

    def __init__(self, refused):
        super().__init__()
        self.network, self.refused = nn.Linear(2, 2), refused

    def forward(self, batch):
        found = self.network(batch["x"]) + torch.randn_like(batch["x"])
        if self.refused:
            found = found * torch.tensor([1.0, 2.0]).to(found.device)
        return TensorDict({"loss": found.square().mean()}, [])


@needs_gpu
@pytest.mark.parametrize("checked", [True, False], ids=["refused before", "fails in"])
def test_what_a_graph_cannot_do_runs_as_written(checked, monkeypatch):
    """Also if the capture itself fails, the random generator and earlier graphs still work."""
    if not checked:
        monkeypatch.setattr("ctmrl_torchrl.recorded.gradients.require_on_gpu", lambda recording: None)
    batch, calls = TensorDict({"x": torch.ones(3, 2)}, [3]).to("cuda"), {}
    for refused in (False, True):
        module = OnTheCPU(refused).to("cuda")
        calls[refused] = RecordedGradients(
            module, list(module.parameters()), lambda losses: losses["loss"], patience=0
        )
        calls[refused](batch)
    assert (calls[False].recordings, calls[True].recordings) == (1, 0)
    for recorded in calls.values():
        torch.cuda.manual_seed(1)
        expected = recorded.as_written(batch)["loss"]
        torch.cuda.manual_seed(1)
        torch.testing.assert_close(recorded(batch)["loss"], expected)


def test_onednn_is_for_the_cpu():
    check_compile_device("onednn", torch.device("cpu"))
    with pytest.raises(
        ConfigError, match="compile: got 'onednn', allowed is false, recorded or true on cuda"
    ):
        check_compile_device("onednn", torch.device("cuda"))
    check_compile_device("recorded", torch.device("cuda"))
