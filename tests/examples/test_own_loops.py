"""The examples that use losses, environments and networks in loops of their own."""

from __future__ import annotations

import re

import pytest
import torch
from programs import load

from ctmrl_torchrl.data import TaskDataset
from ctmrl_torchrl.training.compose import compose_config
from ctmrl_torchrl.training.experiment import build_experiment

pytestmark = pytest.mark.ci


def test_embedding_the_loss_in_a_loop(program):
    text = program("embed_loss", "--updates", 120)
    first, *_, last = (line.split() for line in text.strip().splitlines())
    terms = [dict(zip(words[1::2], map(float, words[2::2]), strict=True)) for words in (first, last)]
    assert terms[1]["loss_prediction"] < 0.6 * terms[0]["loss_prediction"]
    assert terms[1]["loss_qvalue"] < terms[0]["loss_qvalue"]


def test_embedding_the_loss_in_the_trainer(program):
    text = program("embed_in_trainer", "--steps", 20)
    printed = dict(line.split() for line in text.splitlines() if line.startswith("loss_"))
    assert {"loss_prediction", "loss_contrastive", "loss_qvalue", "loss_actor"} <= set(printed)


def test_the_trainers_agent_from_a_loop(program):
    text = program("embed_same_agent", "--updates", 20, "--recipe", "smoke")
    assert re.search(r"np return on 10 unseen tasks: -\d+\.\d\d", text)


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The trainer's agent and the foreign loop's, 40 updates with the same settings and seed."""
    root, updates = tmp_path_factory.mktemp("twins"), 40
    overrides = ["dataset.recipe=smoke", "evaluation.every=0", "output.progress=false", "seed=3"]
    paths = [f"dataset.root={root}/data", f"run_dir={root}/run", f"schedule.updates={updates}"]
    experiment = build_experiment(compose_config(overrides + paths))
    torch.manual_seed(3)
    experiment.trainer.train()

    module, dataset = load("embed_same_agent"), experiment.dataset
    torch.manual_seed(3)
    loss = module.make_loss(dataset.statistics(dataset.manifest.train_ids))
    before = {name: value.clone() for name, value in loss.named_parameters()}
    buffers = module.make_buffers(dataset, 3)
    torch.manual_seed(3)
    module.train(loss, *buffers, updates, 3)
    return experiment, module, loss, before


def test_every_part_of_the_embedded_loss_learns(twins):
    *_, loss, before = twins
    unchanged = [name for name, value in loss.named_parameters() if torch.equal(value, before[name])]
    assert [name for name in unchanged if not name.startswith("policy.target")] == []


def test_the_embedded_loss_ends_where_the_trainer_does(twins):
    experiment, module, loss, _ = twins
    found, expected = list(loss.parameters()), list(experiment.loss.parameters())
    assert len(found) == len(expected)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))  # bit for bit
    test_ids = experiment.task_set.test_ids
    run = experiment.tester.run(test_ids, 8, experiment.config.evaluation.seed)["np"]
    torch.testing.assert_close(module.meta_test(loss, torch.tensor(test_ids)), run["returns"].flatten(0, 1))


def test_collecting_in_batched_environments(program, tmp_path):
    text = program("vectorised_collection", tmp_path / "walkers", "--episodes", 2, "--noises", 1.0)
    dataset = TaskDataset.load(tmp_path / "walkers", verify="full")
    assert (dataset.n_trajectories, dataset.n_transitions) == (40 * 2 * 2, 40 * 2 * 2 * 20)
    random, walk = (
        dataset.trajectory_returns()[dataset.trajectory_snapshot == i].mean().item() for i in (0, 1)
    )
    assert random == pytest.approx(-20.4, abs=1.5) and walk > -6.0
    assert "behaviour 1: mean return" in text
    with pytest.raises(ValueError, match="already exists"):
        program("vectorised_collection", tmp_path / "walkers", "--episodes", 1)


def test_parts_on_their_own():
    module = load("use_parts")
    assert module.quantising_autoencoder() > 1.9
    batch = module.adaptive_policy_in_a_collector(frames=80)
    assert batch["task_context"].shape == (4, 20, 5)
    # one context per row, told apart by what was seen there
    assert torch.equal(batch["task_context"][:, 0], batch["task_context"][:, -1])
    assert not torch.allclose(batch["task_context"][0, 0], batch["task_context"][1, 0])
