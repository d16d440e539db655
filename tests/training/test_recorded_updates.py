"""Every shipped method trains the same whether its updates are recorded or run as written."""

from __future__ import annotations

import pytest
import torch
from every_method import CASES, trained, whole_and_parted
from sameness import assert_same
from tiny_experiments import tiny_config

from ctmrl_torchrl.modules import EncoderConfig
from ctmrl_torchrl.recorded import RecordedGradients, has_onednn
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.identity import run_identity
from ctmrl_torchrl.training.validate import validate_config


@pytest.mark.parametrize(
    "overrides",
    [pytest.param(CASES[0]), *(pytest.param(each, marks=pytest.mark.slow) for each in CASES[1:])],
    ids=" ".join,
)
def test_recorded_updates_are_those_as_written(overrides, dataset_root, tmp_path):
    expected = trained(overrides, dataset_root, tmp_path / "written", "false")
    found = trained(overrides, dataset_root, tmp_path / "recorded", "recorded")
    for name, value in expected[0].items():
        assert_same(found[0][name], value, name)
    assert torch.equal(found[1], expected[1])


@pytest.mark.ci
@pytest.mark.skipif(not has_onednn(), reason="this build of PyTorch has no oneDNN")
def test_a_run_by_onednn_continues_exactly(dataset_root, tmp_path, monkeypatch):
    """Products are large enough to be replaced, and the run stops within a phase."""
    sections = {"encoder": EncoderConfig(context_dim=4, hidden=[64, 64]), "compile": "onednn"}

    def config(name, **changes):
        fields = {"schedule.updates": 10, "evaluation.protocols": [], "output.checkpoint_every": 3} | changes
        return tiny_config(dataset_root, tmp_path / name, fields, **sections)

    whole, parted = whole_and_parted(config, monkeypatch)
    assert_same(parted, whole)


def test_the_ways_of_running_an_update(dataset_root, tmp_path):
    ways = {}
    for way in (False, "recorded", "onednn"):
        trainer = build_experiment(tiny_config(dataset_root, tmp_path, compile=way)).trainer
        ways[way] = trainer.differentiate
    assert not isinstance(ways[False], RecordedGradients)
    assert ways["recorded"].patience > 0 == ways["onednn"].patience
    assert ways["onednn"].onednn and not ways["recorded"].onednn


def test_a_checkpoint_of_an_update_as_written_goes_on_recorded_but_not_by_onednn(tmp_path):
    identities = [
        run_identity(tiny_config(tmp_path, tmp_path, compile=way)) for way in (False, "recorded", "onednn")
    ]
    assert identities[0] == identities[1] != identities[2]


def test_a_missing_compiler_or_onednn_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"compile: got True, .* needs a C\+\+ compiler"):
        validate_config(tiny_config(tmp_path, tmp_path, compile=True))
    monkeypatch.setattr("ctmrl_torchrl.training.validate.has_onednn", lambda: False)
    with pytest.raises(ConfigError, match="compile: got 'onednn', .* has no oneDNN"):
        validate_config(tiny_config(tmp_path, tmp_path, compile="onednn"))
    validate_config(tiny_config(tmp_path, tmp_path))
