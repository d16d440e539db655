"""A run that cannot work is refused before anything is written or made."""

from __future__ import annotations

import pytest
from tiny_experiments import tiny_config

from ctmrl_torchrl.training.experiment import run_experiment
from ctmrl_torchrl.training.validate import ConfigError, check_protocol_data, validate_config


def test_nothing_is_written_or_made_for_a_wrong_configuration(tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", {"representation.kmeans_at": 2.0})
    with pytest.raises(
        ConfigError, match="representation.kmeans_at: got 2.0, allowed is a number from 0 to below 1"
    ):
        run_experiment(config)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["run_dir", "dataset.root"])
def test_a_file_in_the_place_of_a_folder_is_named_and_kept(field, tmp_path):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    place = str(tmp_path / "file" / "below")
    config = tiny_config(tmp_path / "data", tmp_path / "run", {field: place})
    with pytest.raises(
        ConfigError, match=rf"config field {field}: \S+below cannot be written \(\S+file is a file, not a dir"
    ):
        run_experiment(config)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", ""])
def test_unknown_devices(device, tmp_path):
    config = tiny_config(tmp_path / "data", tmp_path / "run", {"device": device})
    allowed = "auto, cpu" if device else "a text that is not empty"
    with pytest.raises(ConfigError, match=f"config field device: got '{device}', allowed is {allowed}"):
        run_experiment(config)
    assert not list(tmp_path.iterdir())


def test_offline_needs_a_recipe_that_records_test_tasks(tmp_path):
    def config(recipe, protocols, **changes):
        changes = {f"dataset.{name}": value for name, value in changes.items()}
        asked = {"dataset.recipe": recipe, "evaluation.protocols": protocols} | changes
        return tiny_config(tmp_path / "data", tmp_path / "run", asked)

    with pytest.raises(
        ConfigError, match=r"config field evaluation.protocols.*without 'offline', which reads"
    ):
        run_experiment(config("small_train_only", ["np", "offline"]))
    assert not list(tmp_path.iterdir())
    validate_config(config("small_train_only", ["offline"]))  # ctmrl collect makes such data
    check_protocol_data(config("small_train_only", ["np"]))
    check_protocol_data(config("small", ["offline"]))
    check_protocol_data(config("small_train_only", ["offline"], path=str(tmp_path)))  # other data are there
