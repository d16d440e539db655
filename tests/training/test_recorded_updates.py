"""Every shipped method trains the same whether its updates are recorded or run as written."""

from __future__ import annotations

import pytest
import torch
from sameness import assert_same
from tiny_experiments import tiny_config

from ctmrl_torchrl.modules import EncoderConfig
from ctmrl_torchrl.places import config_folder
from ctmrl_torchrl.recorded import RecordedGradients, has_onednn
from ctmrl_torchrl.rules import ConfigError
from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.identity import run_identity
from ctmrl_torchrl.training.trainer import MetaTrainer
from ctmrl_torchrl.training.validate import validate_config

SMALL = [
    "preset=smoke", "schedule.updates=8", "schedule.representation_end=0.8", "schedule.policy_start=0.3",
    "batch.tasks=4", "batch.transitions=16", "sizes.encoder_hidden=[8]", "sizes.predictor_hidden=[8]",
    "sizes.policy_hidden=[8]", "evaluation.every=0", "output.logger=none", "output.progress=false",
    "keep_memory=false",
]  # fmt: skip
METHODS = sorted(file.stem for file in (config_folder() / "method").glob("*.yaml"))
POLICIES = ["iql", "sac", "td3_bc", "own/csro"]
#: task models of GENTLE whose fit takes no time
FIT = ["representation.model_steps=2", "representation.model_rows=40", "representation.store_rows=40"]
CASES = [["method=ctmrl"], *([f"method={name}"] for name in METHODS if name not in ("ctmrl", "gentle"))]
CASES += [["method=idaq", "representation.ensemble=true", "representation.members=3"]]
CASES += [["method=gentle", *FIT], ["method=gentle", "env=point_robot_wind", *FIT]]
CASES += [["method=anole", "env=point_robot_wind"]]
CASES += [["method=ctmrl", f"policy_loss={name}"] for name in POLICIES]
CASES += [["method=ctmrl", "policy_loss=brac_sac", "policy_loss.behaviour_penalty=true"]]


class KilledError(BaseException):
    """The process is killed."""


def trained(overrides, root, run_dir, compile):
    """All parameters, buffers and random numbers after eight updates."""
    places = [f"dataset.root={root}", f"run_dir={run_dir}", f"compile={compile}"]
    trainer = build_experiment(compose_config([*overrides, *SMALL, *places])).trainer
    torch.manual_seed(0)
    if compile != "false":
        trainer.differentiate.patience = 0
    trainer.begin()
    for _ in range(8):
        trainer.update(trainer.next_batch())
        trainer.update_count += 1
    if compile != "false":
        assert trainer.differentiate.recordings > 0
    return trainer.loss.state_dict(), torch.get_rng_state()


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
    torch.manual_seed(99)
    run_experiment(resumed)
    whole, parted = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["state"]
        for name in ("whole", "parted")
    )
    assert whole.pop("seconds") > 0 and parted.pop("seconds") > 0
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
