from __future__ import annotations

import pytest
import torch
from tiny_experiments import metric_rows, tiny_config

from ctmrl_torchrl.objectives.policy import IQLConfig
from ctmrl_torchrl.training.experiment import build_experiment
from ctmrl_torchrl.training.metrics import MetricsLog

QUIET = {"evaluation.every": 0, "evaluation.protocols": ["np"], "schedule.updates": 12}


def trained(dataset_root, run_dir, changes=None, **fields):
    experiment = build_experiment(tiny_config(dataset_root, run_dir, QUIET | (changes or {}), **fields))
    trainer = experiment.trainer
    trainer.metrics = MetricsLog(run_dir / "metrics.csv")
    torch.manual_seed(0)
    before = {name: value.clone() for name, value in trainer.loss.state_dict().items()}
    trainer.train()
    after = trainer.loss.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert all(value.isfinite().all() for value in after.values())
    return trainer, changed


def some(changed, part):
    return any(part in name for name in changed)


def losses(run_dir, name):
    return {
        int(step): float(value) for step, key, value in metric_rows(run_dir) if key == f"loss/loss_{name}"
    }


def test_all_parts_learn(dataset_root, tmp_path):
    trainer, changed = trained(dataset_root, tmp_path)
    for part in ("context_encoder", "codebook.codes", "reward_predictor", "next_observation_predictor"):
        assert some(changed, part), part
    for part in ("actor_network_params", "qvalue_network_params", "target_value_network_params"):
        assert some(changed, part), part
    assert trainer.update_count == 12


def test_iql_learns_too(dataset_root, tmp_path):
    _, changed = trained(dataset_root, tmp_path, policy_loss=IQLConfig(hidden=[8]))
    for part in ("actor_network_params", "value_network_params", "target_qvalue_network_params"):
        assert some(changed, part), part
    assert losses(tmp_path, "value")


def test_behaviour_penalty(dataset_root, tmp_path):
    _, changed = trained(dataset_root, tmp_path, {"policy_loss.behaviour_penalty": True})
    assert some(changed, "behaviour_critic")


TERMS = {
    "prediction_weight": "prediction",
    "cross_prediction_weight": "cross_prediction",
    "code_weight": "code",
    "contrastive_weight": "contrastive",
}


@pytest.mark.parametrize("weight", TERMS)
def test_each_weight_of_zero_switches_its_term_off(weight, dataset_root, tmp_path):
    _, changed = trained(dataset_root, tmp_path, {f"representation.{weight}": 0.0})
    for name, term in TERMS.items():
        values = losses(tmp_path, term).values()
        assert any(values) is (name != weight), name
    assert some(changed, "context_encoder") and some(changed, "actor_network_params")


@pytest.mark.parametrize("policy_start", [0.0, 0.5])
def test_all_weights_of_zero_leave_the_encoder_alone(policy_start, dataset_root, tmp_path):
    changes = {f"representation.{weight}": 0.0 for weight in TERMS} | {"schedule.policy_start": policy_start}
    _, changed = trained(dataset_root, tmp_path, changes)
    assert not some(changed, "context_encoder") and some(changed, "actor_network_params")


def test_without_kmeans(dataset_root, tmp_path):
    trainer, changed = trained(
        dataset_root, tmp_path, {"representation.kmeans": False, "representation.kmeans_at": 0.5}
    )
    (schedule,) = trainer.parts.parts
    assert schedule.collected == []
    assert some(changed, "codebook.codes") and losses(tmp_path, "code")[12] > 0


def test_frozen_phases(dataset_root, tmp_path):
    changes = {"schedule.representation_end": 0.5, "schedule.policy_start": 0.25, "output.log_every": 3}
    _, changed = trained(dataset_root, tmp_path, changes)
    # 12 updates: the policy learns from 3 on, the representation until 6
    assert list(losses(tmp_path, "actor")) == [6, 9, 12]
    assert list(losses(tmp_path, "prediction")) == [3, 6]
    only_policy = tmp_path / "policy"
    only_policy.mkdir()
    _, changed = trained(
        dataset_root, only_policy, {"schedule.representation_end": 0.0, "representation.kmeans": False}
    )
    assert not some(changed, "context_encoder") and some(changed, "actor_network_params")


def test_the_last_updates_are_logged_too(dataset_root, tmp_path):
    trained(dataset_root, tmp_path, {"output.log_every": 5})
    assert list(losses(tmp_path, "actor")) == [5, 10, 12]


@pytest.fixture
def diverging(dataset_root, tmp_path):
    """A trainer whose loss becomes infinite at its eighth update; checkpoints every four."""

    def make(changes):
        trainer = build_experiment(tiny_config(dataset_root, tmp_path, QUIET | changes)).trainer
        forward = trainer.loss.forward

        def broken(batch):
            out = forward(batch)
            return out.set("loss_value", out["loss_value"] / (trainer.update_count < 7))

        trainer.loss.forward = broken
        return trainer

    return make


@pytest.mark.parametrize("log_every", [2, 5, 100])
def test_an_infinite_loss_is_named_and_the_good_checkpoint_stays(log_every, diverging, tmp_path):
    trainer = diverging({"output.checkpoint_every": 4, "output.log_every": log_every})
    with pytest.raises(FloatingPointError, match="After 8 updates these are not finite: loss/loss_value"):
        trainer.train()
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert state["update"] == 4
    assert all(value.isfinite().all() for value in state["loss"].values())


def test_broken_parameters_are_not_saved(dataset_root, tmp_path):
    trainer = build_experiment(tiny_config(dataset_root, tmp_path, QUIET)).trainer
    trainer.save()
    file = tmp_path / "checkpoints" / "last.pt"
    before = file.read_bytes()
    with torch.no_grad():
        trainer.loss.representation.codebook.codes[0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="representation.codebook.codes"):
        trainer.save()
    assert file.read_bytes() == before


def test_the_seed_decides_everything(dataset_root, tmp_path):
    states = []
    for seed in (1, 1, 2):
        experiment = build_experiment(tiny_config(dataset_root, tmp_path, QUIET, seed=seed))
        torch.manual_seed(seed)
        for _ in range(3):
            trainer = experiment.trainer
            trainer.record(trainer.update(trainer.next_batch()), trainer.progress_bar())
        states.append(torch.cat([p.detach().flatten() for p in experiment.loss.parameters()]))
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_building_leaves_the_global_random_state_alone(dataset_root, tmp_path):
    before = torch.get_rng_state()
    build_experiment(tiny_config(dataset_root, tmp_path, QUIET))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_compiled_run_is_the_eager_one(dataset_root, tmp_path, monkeypatch):
    """Through all phases; floating-point order may differ, the course may not."""
    # compiled code has a random stream of its own unless told otherwise
    monkeypatch.setattr("torch._inductor.config.fallback_random", True)
    losses = {}
    for compiled in (False, True):
        torch._dynamo.reset()
        config = tiny_config(
            dataset_root, tmp_path / str(compiled), {"evaluation.every": 0}, compile=compiled
        )
        experiment = build_experiment(config)
        torch.manual_seed(config.seed)
        experiment.trainer.train()
        losses[compiled] = dict(experiment.loss.named_parameters())
    for name, value in losses[False].items():
        torch.testing.assert_close(losses[True][name], value, rtol=1e-3, atol=1e-4, msg=name)
