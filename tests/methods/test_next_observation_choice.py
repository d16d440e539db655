"""``encoder.next_observation`` decides what is predicted, too, not only what contexts hold."""

from __future__ import annotations

import pytest
from small_runs import small_config

from ctmrl_torchrl.training.build import build_experiment
from ctmrl_torchrl.training.experiment import run_experiment


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("env", ["point_robot", "point_robot_wind"])
def test_the_cycle_predicts_what_the_encoder_reads(env, chosen, data_root, tmp_path):
    changes = (f"env={env}", f"encoder.next_observation={chosen}")
    loss = build_experiment(small_config("ctmrl_released", data_root, tmp_path, *changes)).loss
    assert (("context", "next", "observation") in loss.context_encoder.in_keys) == chosen
    assert (loss.representation.next_observation_predictor is not None) == chosen


def test_the_store_of_gentle_holds_what_the_encoder_reads(data_root, tmp_path):
    changes = (
        "encoder.next_observation=true",
        "representation.model_steps=20",
        "representation.model_hidden=[8]",
    )
    config = small_config("gentle", data_root, tmp_path, *changes)
    summary = run_experiment(config)
    assert summary["updates"] == 8
