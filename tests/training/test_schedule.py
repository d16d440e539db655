from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from tensordict import TensorDict

from ctmrl_torchrl.modules import Codebook
from ctmrl_torchrl.training.config import OptimizerConfig, ScheduleConfig
from ctmrl_torchrl.training.schedule import (
    CodebookSchedule,
    LearningRates,
    beginnings,
    cosine_fall,
    total_loss,
)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 1.0), (0.2, 1.0), (0.4, 0.55), (0.3, 0.55 + 0.45 * math.sqrt(0.5)), (0.6, 0.1), (1.0, 0.1)],
)
def test_cosine_fall(progress, expected):
    assert cosine_fall(progress, 0.2, 0.6, 0.1) == pytest.approx(expected)


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_cosine_fall_without_width(progress):
    assert cosine_fall(progress, 0.5, 0.5, 0.0) == 1.0


def rates_over(schedule, **rates):
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.Adam(
        [
            {"params": parameters[:1], "name": "representation"},
            {"params": parameters[1:], "name": "policy"},
        ]
    )
    loss = SimpleNamespace(representation_frozen=None, policy_frozen=None)
    hook = LearningRates(
        optimizer, loss, OptimizerConfig(representation_rate=2.0, policy_rate=4.0, **rates), schedule
    )
    rows = []
    for update in range(schedule.updates):
        if update == schedule.updates // 2:  # as on resuming
            optimizer.load_state_dict(optimizer.state_dict())
        hook.before_update(update)
        lr = {group["name"]: group["lr"] for group in optimizer.param_groups}
        rows.append((lr["representation"], lr["policy"], loss.representation_frozen, loss.policy_frozen))
    return [list(column) for column in zip(*rows, strict=True)]


def test_rates_that_are_tensors_stay_where_they_are():
    """A captured update reads a rate from the place it had when it was captured."""
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "name": name}
        for name in ("representation", "policy")
    ]
    optimizer = torch.optim.Adam([group | {"lr": torch.tensor(9.0)} for group in groups])
    rates = [group["lr"] for group in optimizer.param_groups]
    schedule = ScheduleConfig(updates=10, representation_end=0.5, policy_start=0.0)
    hook = LearningRates(optimizer, SimpleNamespace(), OptimizerConfig(2.0, 4.0, policy_final=1.0), schedule)
    for update, expected in ((0, [2.0, 4.0]), (5, [0.0, 4.0])):
        hook.before_update(update)
        assert [rate.item() for rate in rates] == expected
        assert all(group["lr"] is rate for group, rate in zip(optimizer.param_groups, rates, strict=True))


def test_what_begins_when():
    schedule = ScheduleConfig(updates=1000, representation_end=0.6, policy_start=0.5, kmeans_at=0.3)
    moments = {"codes begin": 180.0, "policy begins": 500.0, "encoder is fixed": 600.0}
    assert beginnings(schedule, codes=True) == pytest.approx(moments)
    assert list(beginnings(schedule, codes=False)) == ["policy begins", "encoder is fixed"]
    assert beginnings(ScheduleConfig(updates=1000), codes=False) == {}


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

    def __init__(self, schedule):
        codebook = Codebook(2, 2)
        self.loss = SimpleNamespace(
            representation=SimpleNamespace(codebook=codebook, warm_up=None),
            tensor_keys=SimpleNamespace(context="context"),
            encode=self.encode,
        )
        self.update, self.collected, self.initialised, self.merged = 0, [], [], []
        codebook.initialise_ = lambda centres: self.initialised.append(self.update)
        codebook.merge_ = lambda centres: self.merged.append(self.update)
        self.hook = CodebookSchedule(self.loss, lambda: TensorDict({}, []), schedule)

    def encode(self, batch, key):
        self.collected.append(self.update)
        return torch.randn(4, 2)

    def run(self, updates):
        warm_up = []
        for self.update in range(updates):
            self.hook.before_update(self.update)
            warm_up.append(self.loss.representation.warm_up)
        return warm_up


def test_codebook_schedule_of_the_paper():
    # 100 updates, 50 of the representation in 10 epochs of 5; refreshes every 10
    schedule = ScheduleConfig(
        updates=100, representation_end=0.5, epochs=10, kmeans_from=0.2, kmeans_at=0.32, refreshes=5
    )
    codes = Codes(schedule)
    warm_up = codes.run(100)
    assert codes.initialised == [16]  # the first update at 32 % of 50
    assert warm_up == [True] * 16 + [False] * 84
    assert codes.collected == list(range(10, 50, 5))
    assert codes.merged == [20, 30, 40]
    assert codes.hook.collected  # since the last refresh


def test_contexts_are_spent_once():
    codes = Codes(ScheduleConfig(updates=20, epochs=10, kmeans_from=0.0, kmeans_at=0.5, contexts_per_epoch=3))
    codes.run(10)
    assert len(codes.hook.collected) == 3 * 5
    codes.run(11)
    assert codes.hook.collected == []


def test_kmeans_at_the_start_collects_then():
    codes = Codes(ScheduleConfig(updates=10, epochs=1, kmeans_from=1.0, kmeans_at=0.0))
    assert codes.run(10) == [False] * 10
    assert codes.initialised == [0] and codes.collected == [0] and codes.merged == []


def test_without_kmeans_only_the_warm_up_counts():
    codes = Codes(ScheduleConfig(updates=20, representation_end=0.5, kmeans_at=0.3, kmeans=False))
    assert codes.run(20) == [True] * 3 + [False] * 17
    assert codes.collected == codes.initialised == codes.merged == []


def test_more_epochs_than_updates():
    codes = Codes(ScheduleConfig(updates=5, epochs=100, kmeans_from=0.2, kmeans_at=0.4, refreshes=100))
    assert codes.run(5) == [True, True, False, False, False]
    assert codes.collected == [1, 2, 3, 4] and codes.merged == [3, 4]


def test_no_representation_phase():
    codes = Codes(ScheduleConfig(updates=5, representation_end=0.0, kmeans=False))
    codes.run(5)


def test_codebook_schedule_state():
    schedule = ScheduleConfig(updates=20, epochs=10, kmeans_from=0.1, kmeans_at=0.5)
    codes, fresh = Codes(schedule), Codes(schedule)
    codes.run(6)
    fresh.hook.load_state_dict(codes.hook.state_dict())
    assert torch.equal(torch.cat(fresh.hook.collected), torch.cat(codes.hook.collected))
    assert fresh.hook.initialised is False
    codes.run(12)
    fresh.hook.load_state_dict(codes.hook.state_dict())
    assert fresh.hook.initialised is True


def test_total_loss_leaves_diagnostics_out():
    losses = TensorDict(
        {"loss_a": torch.tensor(2.0), "loss_b": torch.tensor(3.0), "entropy": torch.tensor(9.0)}, []
    )
    assert total_loss(losses) == 5.0
