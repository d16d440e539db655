from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict
from tiny_experiments import tiny_config

from ctmrl_torchrl.methods import CodebookSchedule
from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.objectives import ParameterGroup
from ctmrl_torchrl.training.config import OptimizerConfig, ScheduleConfig
from ctmrl_torchrl.training.experiment import build_experiment, milestones
from ctmrl_torchrl.training.schedule import PhaseSchedule, cosine_fall, phase_milestones, total_loss


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1.0), (0.2, 1.0), (0.4, 0.55), (0.3, 0.55 + 0.45 * math.sqrt(0.5)), (0.6, 0.1), (1.0, 0.1)],
)
def test_cosine_fall(progress, expected):
    assert cosine_fall(progress, 0.2, 0.6, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_cosine_fall_without_width(progress):
    assert cosine_fall(progress, 0.5, 0.5, 0.0) == 1.0


def groups_of(**scales):
    """A group of one parameter for every name; ``critics=("policy", 0.3)`` is its schedule and scale."""
    return [
        ParameterGroup(name, (torch.nn.Parameter(torch.zeros(1)),), schedule, scale)
        for name, (schedule, scale) in scales.items()
    ]


def adam(groups, rate=9.0):
    return torch.optim.Adam(
        [{"params": list(group.parameters), "name": group.name, "lr": rate} for group in groups]
    )


PLAIN = {"representation": ("representation", 1.0), "policy": ("policy", 1.0)}


def rates_over(schedule, scales=PLAIN, **rates):
    """Columns: the rate of every group, and which of representation and policy is frozen."""
    groups = groups_of(**scales)
    optimizer = adam(groups)
    loss = SimpleNamespace(representation_frozen=None, policy_frozen=None)
    rates = OptimizerConfig(representation_rate=2.0, policy_rate=4.0, **rates)
    phases = PhaseSchedule(optimizer, groups, loss, rates, schedule)
    rows = []
    for update in range(schedule.updates):
        if update == schedule.updates // 2:  # as on resuming
            optimizer.load_state_dict(optimizer.state_dict())
        phases.before_update(update)
        lr = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert list(lr) == list(scales)
        rows.append((*lr.values(), loss.representation_frozen, loss.policy_frozen))
    return [list(column) for column in zip(*rows, strict=True)]


def test_rates_that_are_tensors_stay_where_they_are():
    """A captured update reads a rate from the place it had when it was captured."""
    groups = groups_of(**PLAIN)
    optimizer = adam(groups)
    for group in optimizer.param_groups:
        group["lr"] = torch.tensor(9.0)
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = ScheduleConfig(updates=10, representation_end=0.5, policy_start=0.0)
    settings = OptimizerConfig(2.0, 4.0, policy_final=1.0)
    phases = PhaseSchedule(optimizer, groups, SimpleNamespace(), settings, schedule)
    for update, expected in ((0, [2.0, 4.0]), (5, [0.0, 4.0])):
        phases.before_update(update)
        assert [rate.item() for rate in rates] == expected
        assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, rates, strict=True))


def test_every_group_follows_its_schedule_times_its_scale():
    """Any number of groups, in any order, under any names."""
    schedule = ScheduleConfig(updates=8, representation_end=0.5, policy_start=0.25)
    decay = {"policy_final": 0.0, "policy_decay_from": 0.5}
    scales = {
        "critics": ("policy", 0.25),
        "encoder": ("representation", 1.0),
        "actor": ("policy", 3.0),
        "predictors": ("representation", 0.5),
    }
    critics, encoder, actor, predictors, *frozen = rates_over(schedule, scales, **decay)
    representation, policy, *plainly_frozen = rates_over(schedule, **decay)
    assert critics == pytest.approx([0.25 * rate for rate in policy])
    assert actor == pytest.approx([3.0 * rate for rate in policy])
    assert encoder == representation and predictors == pytest.approx([rate / 2 for rate in representation])
    assert (
        frozen == plainly_frozen and critics[0] == 1.0 and actor[7] == pytest.approx(6 - 6 * math.sqrt(0.5))
    )


def test_what_begins_when(dataset_root, tmp_path):
    schedule = ScheduleConfig(updates=1000, representation_end=0.6, policy_start=0.5)
    assert phase_milestones(schedule) == {"policy begins": 500.0, "encoder is fixed": 600.0}
    assert Codes(updates=600.0, initialize_at=0.3).part.milestones() == {"codes begin": 180.0}
    changes = {"schedule.updates": 1000, "schedule.representation_end": 0.6, "schedule.policy_start": 0.5}
    changes |= {"representation.kmeans_at": 0.3}
    experiment = build_experiment(tiny_config(dataset_root, tmp_path, changes))
    expected = {"codes begin": 180.0, "policy begins": 500.0, "encoder is fixed": 600.0}
    assert milestones(experiment) == pytest.approx(expected) and list(milestones(experiment)) == list(
        expected
    )


def test_what_begins_at_once_or_never_is_no_milestone(dataset_root, tmp_path):
    changes = {"schedule.representation_end": 1.0, "representation.kmeans_at": 0.0}
    experiment = build_experiment(tiny_config(dataset_root, tmp_path, changes))
    assert milestones(experiment) == {}


def test_learning_rates_and_frozen_phases():
    schedule = ScheduleConfig(updates=8, representation_end=0.5, policy_start=0.25)
    representation, policy, frozen, policy_frozen = rates_over(
        schedule, policy_final=0.0, policy_decay_from=0.5
    )
    half = math.sqrt(0.5)
    assert representation == pytest.approx([2.0, 1 + half, 1.0, 1 - half, 0, 0, 0, 0])
    assert policy == pytest.approx([4.0, 4.0, 4.0, 4.0, 4.0, 2 + 2 * half, 2.0, 2 - 2 * half])
    assert frozen == [False] * 4 + [True] * 4
    assert policy_frozen == [True] * 2 + [False] * 6


def test_learning_rates_by_default():
    representation, policy, frozen, policy_frozen = rates_over(ScheduleConfig(updates=4))
    assert representation[0] == 2.0 and representation[2] == pytest.approx(1.0)
    assert policy == [4.0] * 4
    assert not any(frozen) and not any(policy_frozen)


class Codes:
    """A loss whose contexts tell when they were made, and a record of what happened to its codebook."""

    def __init__(self, **schedule):
        codebook = Codebook(2, 2)
        self.loss = SimpleNamespace(
            representation=SimpleNamespace(codebook=codebook, warm_up=None),
            tensor_keys=SimpleNamespace(context="context"),
            encode=self.encode,
        )
        self.update, self.collected, self.initialized, self.merged = 0, [], [], []
        codebook.initialise_ = lambda centers: self.initialized.append(self.update)
        codebook.merge_ = lambda centers: self.merged.append(self.update)
        self.part = CodebookSchedule(self.loss, lambda: TensorDict({}, []), **schedule)

    def encode(self, batch, key):
        self.collected.append(self.update)
        return torch.randn(4, 2)

    def run(self, updates):
        warm_up = []
        for self.update in range(updates):
            self.part.before_update(self.update)
            warm_up.append(self.loss.representation.warm_up)
        return warm_up


def test_codebook_schedule_of_the_paper():
    # 50 updates of the representation in 10 epochs of 5; refreshes every 10
    codes = Codes(updates=50.0, epochs=10, collect_from=0.2, initialize_at=0.32, refreshes=5)
    warm_up = codes.run(100)
    assert codes.initialized == [16]  # the first update at 32 % of 50
    assert warm_up == [True] * 16 + [False] * 84
    assert codes.collected == list(range(10, 50, 5))
    assert codes.merged == [20, 30, 40]
    assert codes.part.collected  # since the last refresh


def test_contexts_are_spent_once():
    codes = Codes(updates=20.0, epochs=10, collect_from=0.0, initialize_at=0.5, contexts_per_epoch=3)
    codes.run(10)
    assert len(codes.part.collected) == 3 * 5
    codes.run(11)
    assert codes.part.collected == []


def test_kmeans_at_the_start_collects_then():
    codes = Codes(updates=10.0, epochs=1, collect_from=1.0, initialize_at=0.0)
    assert codes.run(10) == [False] * 10
    assert codes.initialized == [0] and codes.collected == [0] and codes.merged == []


def test_without_kmeans_only_the_warm_up_counts():
    codes = Codes(updates=10.0, initialize_at=0.3, kmeans=False)
    assert codes.run(20) == [True] * 3 + [False] * 17
    assert codes.collected == codes.initialized == codes.merged == []


def test_more_epochs_than_updates():
    codes = Codes(updates=5.0, epochs=100, collect_from=0.2, initialize_at=0.4, refreshes=100)
    assert codes.run(5) == [True, True, False, False, False]
    assert codes.collected == [1, 2, 3, 4] and codes.merged == [3, 4]


def test_no_representation_phase():
    codes = Codes(updates=0.0, kmeans=False)
    assert codes.run(5)[1:] == [False] * 4
    assert codes.collected == codes.initialized == codes.merged == []


def test_codebook_schedule_state():
    schedule = {"updates": 20.0, "epochs": 10, "collect_from": 0.1, "initialize_at": 0.5}
    codes, fresh = Codes(**schedule), Codes(**schedule)
    codes.run(6)
    fresh.part.load_state_dict(codes.part.state_dict())
    assert torch.equal(torch.cat(fresh.part.collected), torch.cat(codes.part.collected))
    assert fresh.part.initialized is False
    codes.run(12)
    fresh.part.load_state_dict(codes.part.state_dict())
    assert fresh.part.initialized is True


def test_the_method_makes_the_schedule_of_its_configuration(dataset_root, tmp_path):
    changes = {"representation.kmeans_contexts": 3, "schedule.updates": 40}
    experiment = build_experiment(tiny_config(dataset_root, tmp_path, changes, seed=5))
    (part,) = experiment.parts.parts
    # 32 of 40 updates are the representation's; 8 epochs and 8 refreshes
    assert (part.length, part.epoch_length, part.refresh_length) == (32.0, 4, 4)
    assert (part.collect_from, part.initialize_at, part.contexts_per_epoch) == (0.2, 0.5, 3)
    assert (part.kmeans, part.seed, part.stackable, part.name) == (True, 5, True, "codebook")
    assert experiment.parts.metric_groups == {"perplexity": "codebook", "dead_codes": "codebook"}
    assert torch.equal(part.candidates(), experiment.loss.representation.codebook.codes)
    assert set(part.summary()["codebook"]) == {"perplexity", "dead_codes"}
    assert part.collect()["context"].shape[0] == 30  # one context of every training task


def test_total_loss_leaves_diagnostics_out():
    losses = TensorDict(
        {"loss_a": torch.tensor(2.0), "loss_b": torch.tensor(3.0), "entropy": torch.tensor(9.0)}, []
    )
    assert total_loss(losses) == 5.0
