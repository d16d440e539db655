"""Every moment of a part, with a small one that uses them all: a method of a user's own."""

from __future__ import annotations

import json

import pytest
import torch
from anchored import PREPARATIONS, UPDATES, Anchors, PullConfig, pull_config
from tensordict import TensorDict
from tiny_experiments import metric_rows

from ctmrl_torchrl.methods import REPRESENTATIONS, FOCALConfig, Part, Parts
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer


@pytest.fixture(autouse=True)
def registered():
    REPRESENTATIONS.register("pull", PullConfig)
    yield
    REPRESENTATIONS.unregister("pull")


@pytest.fixture
def experiment(dataset_root, tmp_path):
    return build_experiment(pull_config(dataset_root, tmp_path))


def test_every_moment_comes_in_its_order(experiment, monkeypatch):
    (part,) = experiment.parts.parts
    update = MetaTrainer.update

    def noted(self, batch):
        part.calls.append(("update", self.update_count))
        return update(self, batch)

    monkeypatch.setattr(MetaTrainer, "update", noted)
    experiment.trainer.updates = 3
    experiment.trainer.train()
    moments = [
        [
            ("before_update", n),
            ("batch", 4),
            ("inner_steps", ["task_context"]),
            ("update", n),
            ("after_update", n),
        ]
        for n in range(3)
    ]
    assert part.calls == [("prepare", 0), *sum(moments, [])]


def test_the_setting_holds_what_a_part_needs(experiment):
    (part,) = experiment.parts.parts
    setting, config = part.setting, experiment.config
    assert setting.loss is experiment.loss and setting.dataset is experiment.dataset
    assert setting.train_ids == experiment.task_set.train_ids and setting.problem.observation_dim == 2
    assert (setting.updates, setting.representation_updates) == (UPDATES, pytest.approx(0.8 * UPDATES))
    assert setting.seed == config.seed and setting.device == experiment.device
    contexts = setting.draw_contexts()
    assert contexts["task_id"].sort().values.tolist() == list(experiment.task_set.train_ids)
    # the generator is that of the replay buffer, so that a checkpoint holds all sampling
    before = setting.generator.get_state()
    experiment.trainer.begin()
    experiment.trainer.next_batch()
    assert not torch.equal(setting.generator.get_state(), before)


def test_the_loss_learns_from_what_a_part_adds(experiment):
    (part,), trainer = experiment.parts.parts, experiment.trainer
    trainer.begin()
    batch = trainer.next_batch()
    # read for the part alone: neither the encoder nor a loss asks for it
    key = ("context", "next", "observation")
    assert key in part.in_keys and key not in experiment.loss.in_keys and key in batch.keys(True)
    assert "anchor" in experiment.loss.in_keys and ("context", "next", "terminated") not in batch.keys(True)
    before = {name: value.clone() for name, value in experiment.loss.context_encoder.named_parameters()}
    losses = trainer.update(batch)
    contexts = part.seen[1]["task_context"]
    expected = (contexts - part.anchor(batch[key].mean(1))).square().mean()
    assert losses["loss_pull"].item() == pytest.approx(expected.item())
    moved = [
        name
        for name, value in experiment.loss.context_encoder.named_parameters()
        if not torch.equal(value, before[name])
    ]
    assert moved == list(before)


def test_without_the_part_the_loss_names_what_it_lacks(experiment):
    experiment.trainer.parts = Parts([])
    experiment.trainer.begin()
    with pytest.raises(KeyError, match="PullLoss.*anchor"):
        experiment.trainer.update(experiment.trainer.next_batch())


def test_inner_steps_are_given_the_batch_and_its_contexts_without_gradient(experiment):
    (part,), trainer = experiment.parts.parts, experiment.trainer
    trainer.begin()
    batch = trainer.next_batch()
    seen, contexts = part.seen
    assert seen is batch and "anchor" in seen
    assert contexts.batch_size == (4,) and not contexts["task_context"].requires_grad
    with torch.no_grad():
        expected = experiment.loss.encode(batch, "context")
    assert torch.equal(contexts["task_context"], expected)
    # a step of its own leaves nothing in the gradients of the agent
    assert all(value.grad is None for value in experiment.loss.parameters())
    assert [moment for moment, _ in part.calls].count("inner_steps") == 1


def test_inner_steps_see_contexts_of_single_transitions_where_they_are_written(
    dataset_root, tmp_path, monkeypatch
):
    monkeypatch.setattr(PullConfig, "uses_transition_contexts", True)
    experiment = build_experiment(pull_config(dataset_root, tmp_path))
    experiment.trainer.begin()
    batch = experiment.trainer.next_batch()
    contexts = experiment.parts.parts[0].seen[1]
    assert contexts["transition_contexts"].shape == (*batch["context"].batch_size, 4)
    assert not contexts["transition_contexts"].requires_grad


def test_contexts_are_only_encoded_for_parts_with_inner_steps():
    Parts([Part()]).inner_steps(TensorDict({}, []), lambda: pytest.fail("encoded for nobody"))


def test_a_whole_run_holds_what_the_part_says(dataset_root, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(PullConfig, "parts", lambda self, setting: made.append(Anchors(setting)) or made[-1:])
    changes = {"output.figures": True, "evaluation.protocols": ["codes", "np"]}
    config = pull_config(dataset_root, tmp_path, changes)
    summary = run_experiment(config)
    (part,) = made
    assert summary["anchors"] == {"prepared": PREPARATIONS, "updates": UPDATES}
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    names = {name for _, name, _ in metric_rows(tmp_path)}
    assert {"loss/loss_pull", "anchors/anchor_distance", "diagnostics/anchor_size"} <= names
    # draw: where pictures go, what was played, what was written
    drawing = part.drawing
    assert drawing.folder.parent == tmp_path and (tmp_path / "figures" / "anchors.png").exists()
    assert drawing.summary == summary and set(drawing.runs["test"]) == {"codes", "np"}
    assert drawing.runs["train"]["np"].batch_size == (30, 1) and "point_robot" in drawing.subtitle
    assert (tmp_path / "figures" / "learning.png").exists() and not drawing.folder.exists()


def test_candidates_and_milestones_of_a_part_are_those_of_the_run(experiment):
    (part,) = experiment.parts.parts
    assert torch.equal(experiment.tester.candidates(), part.candidates())
    assert experiment.parts.milestones() == {"halfway": UPDATES / 2}


class Adding(Part):
    """Adds its number to a list in the batch."""

    def __init__(self, name):
        self.name = name

    def batch(self, batch):
        return batch.set("names", f"{batch['names']}{self.name}")

    def candidates(self):
        return torch.ones(1, 2) if self.name == "b" else None


def test_several_parts_follow_each_other():
    parts = Parts([Adding("a"), Adding("b"), Adding("c")])
    assert parts.batch(TensorDict({"names": ""}, []))["names"] == "abc"
    assert parts.candidates().shape == (1, 2)
    assert list(parts.state_dict()) == ["a", "b", "c"] and parts.stackable
    assert parts.summary() == parts.milestones() == parts.metric_groups == {} and parts.in_keys == []
    with pytest.raises(ValueError, match="Several parts are named a; give each part a unique name"):
        Parts([Adding("a"), Adding("b"), Adding("a")])


def test_a_method_without_parts_has_none_of_all_that(dataset_root, tmp_path):
    experiment = build_experiment(
        pull_config(dataset_root, tmp_path, {"evaluation.candidates": 2}, representation=FOCALConfig())
    )
    assert experiment.parts.parts == [] and experiment.parts.state_dict() == {}
