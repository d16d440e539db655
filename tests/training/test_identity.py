from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass
from types import SimpleNamespace

from tiny_experiments import tiny_config

from ctmrl_torchrl.methods import OutcomeModelsConfig
from ctmrl_torchrl.training.identity import run_identity

#: what may differ when a run is resumed: where it runs and writes, what it reports, and names
APART = {
    *("preset", "comparison", "seeds", "device", "run_dir", "overwrite", "resume", "threads", "keep_memory"),
    *("deterministic", "sizes", "dataset", "evaluation", "output"),
}


def test_every_setting_that_training_depends_on_is_part_of_the_identity(tmp_path):
    """A new section or field is one of them, until somebody says that it is not."""
    config = tiny_config(tmp_path, tmp_path)
    expected = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in APART and is_dataclass(value):
            expected |= {f"{field.name}.{name}": each for name, each in asdict(value).items()}
        elif field.name not in APART:
            expected[field.name] = value
    assert expected.pop("held_out") is None  # part of "tasks", see test_held_out.py
    assert expected.pop("parts") is None  # so that runs of earlier versions can be resumed
    assert run_identity(config) == expected
    config.held_out = "1/5"
    assert run_identity(config) == expected | {"tasks": "repo without 1/5"}
    config.parts = {"outcome_models": OutcomeModelsConfig(members=3)}
    added = {name: value for name, value in run_identity(config).items() if name.startswith("parts.")}
    assert added.pop("parts.outcome_models.members") == 3
    assert added.keys() == {f"parts.outcome_models.{name}" for name in ("name", "hidden", "rate")}
    assert {"representation.codes", "encoder.hidden", "policy_loss.name", "seed"} <= expected.keys()


def test_other_data_make_another_identity(tmp_path):
    config = tiny_config(tmp_path, tmp_path)
    identities = []
    for content in ("0" * 64, "1" + "0" * 63):
        dataset = SimpleNamespace(manifest=SimpleNamespace(content_digest=lambda content=content: content))
        identities.append(run_identity(config, dataset))
    first, second = identities
    assert first.pop("dataset") != second.pop("dataset")
    assert first == second == run_identity(config)
