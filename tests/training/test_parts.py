"""Every moment of a part, with a small one that uses them all: a method of a user's own."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from tensordict.utils import NestedKey
from tiny_experiments import assert_same, metric_rows, tiny_config

from ctmrl_torchrl.methods import REPRESENTATIONS, FOCALConfig, Part, Parts, RepresentationConfig
from ctmrl_torchrl.modules.keys import read
from ctmrl_torchrl.objectives import RepresentationLoss
from ctmrl_torchrl.training.checkpoint import CheckpointError
from ctmrl_torchrl.training.experiment import build_experiment, run_experiment
from ctmrl_torchrl.training.trainer import MetaTrainer

PREPARATIONS = 6
UPDATES = 8


class PullLoss(RepresentationLoss):
    """Draws contexts to an entry of the meta-batch that no dataset has: a part adds it."""

    @dataclass
    class _AcceptedKeys:
        task_context: NestedKey = "task_context"
        anchor: NestedKey = "anchor"

    default_keys = _AcceptedKeys
    out_keys = ["loss_pull", "anchor_distance", "anchor_size"]

    @property
    def in_keys(self):
        return [self.tensor_keys.task_context, self.tensor_keys.anchor]

    def forward(self, tensordict):
        keys = self.tensor_keys
        context, anchor = (read(tensordict, key, "PullLoss") for key in (keys.task_context, keys.anchor))
        distance = (context - anchor).square().mean()
        out = {"loss_pull": distance, "anchor_distance": distance.detach().sqrt()}
        return TensorDict(out | {"anchor_size": anchor.norm(dim=-1).mean()}, [])


class Anchors(Part):
    """Learns anchors beforehand, adds them to every batch, and trains an adversary on the contexts."""

    name = "anchors"
    metric_groups = {"anchor_distance": "anchors"}
    in_keys = [("context", "next", "observation")]

    def __init__(self, setting):
        self.setting = setting
        self.calls, self.prepared, self.updates, self.answers = [], 0, 0, []
        with torch.random.fork_rng():
            torch.manual_seed(setting.seed)
            self.anchor = torch.nn.Linear(setting.problem.observation_dim, 4)
            self.adversary = torch.nn.Linear(4, setting.problem.observation_dim)
        self.optimizers = {
            name: torch.optim.Adam(getattr(self, name).parameters(), 0.01) for name in ("anchor", "adversary")
        }

    def _step(self, name, loss):
        loss.backward()
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()

    def prepare(self, checkpoint):
        self.calls.append(("prepare", self.prepared))
        while self.prepared < PREPARATIONS:
            places = self._places(self.setting.draw_contexts())
            noisy = self.anchor(places) + 0.1 * torch.randn(len(places), 4)
            self._step("anchor", (noisy.std(0) - 1).square().mean())
            self.prepared += 1
            checkpoint()

    @staticmethod
    def _places(batch):
        return batch["context", "next", "observation"].mean(1)

    def before_update(self, update):
        self.calls.append(("before_update", update))

    def batch(self, batch):
        self.calls.append(("batch", len(batch)))
        return batch.set("anchor", self.anchor(self._places(batch)).detach())

    def inner_steps(self, batch, contexts):
        self.calls.append(("inner_steps", sorted(contexts.keys())))
        self.seen = batch, contexts
        error = (self.adversary(contexts["task_context"]) - self._places(batch)).square().mean()
        self._step("adversary", error)
        self.answers.append(error.item())

    def after_update(self, update):
        self.calls.append(("after_update", update))
        self.updates += 1

    def candidates(self):
        return self.anchor.weight.detach().mT

    def milestones(self):
        return {"halfway": UPDATES / 2}

    def summary(self):
        return {"anchors": {"prepared": self.prepared, "updates": self.updates}}

    def draw(self, drawing):
        self.drawing = drawing
        (drawing.folder / "anchors.png").write_bytes(b"a picture")

    def state_dict(self):
        return {
            "prepared": self.prepared,
            "updates": self.updates,
            "answers": list(self.answers),
            "anchor": self.anchor.state_dict(),
            "adversary": self.adversary.state_dict(),
            "optimizers": {name: each.state_dict() for name, each in self.optimizers.items()},
        }

    def load_state_dict(self, state):
        self.prepared, self.updates, self.answers = state["prepared"], state["updates"], state["answers"]
        self.anchor.load_state_dict(state["anchor"])
        self.adversary.load_state_dict(state["adversary"])
        for name, each in self.optimizers.items():
            each.load_state_dict(state["optimizers"][name])


@dataclass
class PullConfig(RepresentationConfig):
    name: str = "pull"

    @property
    def num_candidates(self):
        return 2

    def build(self, problem, context_dim):
        return PullLoss()

    def parts(self, setting):
        return [Anchors(setting)]


@pytest.fixture(autouse=True)
def registered():
    REPRESENTATIONS.register("pull", PullConfig)
    yield
    REPRESENTATIONS.unregister("pull")


def pull_config(dataset_root, run_dir, changes=None, **fields):
    changes = {"schedule.updates": UPDATES, "evaluation.every": 0} | (changes or {})
    return tiny_config(dataset_root, run_dir, changes, **({"representation": PullConfig()} | fields))


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


class Killed(BaseException):
    """The process is killed."""


def outcome(run_dir):
    state = torch.load(run_dir / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert state.pop("seconds") > 0
    summary = json.loads((run_dir / "summary.json").read_text())
    return state, {**summary, "wall_time_s": None}, metric_rows(run_dir)


@pytest.fixture(scope="module")
def uninterrupted(dataset_root, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("uninterrupted")
    REPRESENTATIONS.register("pull", PullConfig)
    run_experiment(pull_config(dataset_root, run_dir))
    REPRESENTATIONS.unregister("pull")
    return run_dir


@pytest.mark.parametrize("after", [1, 3, PREPARATIONS])
def test_a_run_that_is_killed_while_it_prepares_goes_on_there(
    after, uninterrupted, dataset_root, tmp_path, monkeypatch
):
    save = MetaTrainer.save

    def killed(self):
        save(self)
        if self.parts.parts[0].prepared == after:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "save", killed)
        with pytest.raises(Killed):
            run_experiment(pull_config(dataset_root, tmp_path))
    state = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["state"]
    assert state["update"] == 0 and state["parts"]["anchors"]["prepared"] == after
    torch.manual_seed(99)  # whatever the process did before
    run_experiment(pull_config(dataset_root, tmp_path, resume=str(tmp_path)))
    assert_same(outcome(tmp_path), outcome(uninterrupted))


def test_a_run_that_is_killed_later_keeps_the_parts_state(uninterrupted, dataset_root, tmp_path, monkeypatch):
    update = MetaTrainer.update

    def killing(self, batch):
        if self.update_count == 7:
            raise Killed
        return update(self, batch)

    changes = {"output.checkpoint_every": 3}
    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainer, "update", killing)
        with pytest.raises(Killed):
            run_experiment(pull_config(dataset_root, tmp_path, changes))
    run_experiment(pull_config(dataset_root, tmp_path, changes, resume=str(tmp_path)))
    assert_same(outcome(tmp_path), outcome(uninterrupted))


def test_states_go_and_come_back_bit_for_bit(uninterrupted, dataset_root, tmp_path):
    state = torch.load(uninterrupted / "checkpoints" / "last.pt", weights_only=True)["state"]["parts"]
    assert state["anchors"]["updates"] == UPDATES and len(state["anchors"]["answers"]) == UPDATES
    fresh = build_experiment(pull_config(dataset_root, tmp_path)).parts
    fresh.load_state_dict(state)
    assert_same(fresh.state_dict(), state)
    with pytest.raises(ValueError, match=r"the checkpoint has the parts \['other'\], this run \['anchors'\]"):
        fresh.load_state_dict({"other": {}})


class Sum(Part):
    """Adds up fractions, beginning with the whole number 0."""

    name, total = "sum", 0

    def after_update(self, update):
        self.total += 0.5

    def state_dict(self):
        return {"total": self.total}

    def load_state_dict(self, state):
        self.total = state["total"]


def test_a_whole_number_may_become_a_fraction(dataset_root, tmp_path):
    trainer = build_experiment(pull_config(dataset_root, tmp_path)).trainer
    trainer.parts = Parts([Sum()])
    trainer.parts.after_update(0)
    state = trainer.state_dict()
    trainer.parts = Parts([Sum()])
    trainer.load_state_dict(state)
    assert trainer.parts.parts[0].total == 0.5


@pytest.mark.parametrize("when", ["from the start", "after an update"])
def test_a_state_that_could_not_be_read_again_is_refused_at_once(when, dataset_root, tmp_path):
    trainer = build_experiment(pull_config(dataset_root, tmp_path)).trainer
    part = Sum()
    trainer.parts = Parts([trainer.parts.parts[0], part])
    if when == "from the start":
        part.total = np.float64(0.0)
    else:
        part.after_update = lambda update: setattr(part, "total", [np.zeros(2)])
    entry = {"from the start": "total is a float64", "after an update": r"total\[0\] is a ndarray"}[when]
    with pytest.raises(
        CheckpointError, match=rf"parts\.sum\.{entry}.*let the part's state_dict return tensors"
    ):
        trainer.train()
    assert trainer.update_count == (when == "after an update")


def test_a_checkpoint_of_other_parts_is_refused(uninterrupted, dataset_root, tmp_path):
    trainer = build_experiment(pull_config(dataset_root, tmp_path)).trainer
    trainer.parts = Parts([])
    message = r"(?s)does not fit this run.*the checkpoint has the parts \['anchors'\], this run \[\]"
    with pytest.raises(CheckpointError, match=message):
        trainer.resume(uninterrupted)


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
