"""A recorded update is the update as written, bit for bit, until something it depends on changes."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import nn

from ctmrl_torchrl.recorded import NotRecordableError, RecordedGradients


class Regression(nn.Module):
    """A loss with everything that a recording must repeat: noise, a buffer that it updates, a phase."""

    recordable = True

    def __init__(self, width=8):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 1))
        self.weight, self.weights = 1.0, {"error": 1.0}
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, batch):
        inputs = batch["x"] + 0.1 * torch.randn_like(batch["x"])
        error = (self.network(inputs) - batch["y"]).square().mean()
        with torch.no_grad():
            self.seen.add_(error.detach())
        return TensorDict(
            {"loss_error": self.weight * self.weights["error"] * error, "seen": self.seen.clone()}, []
        )


def total(losses):
    return losses["loss_error"]


def batches(number, rows=6):
    generator = torch.Generator().manual_seed(1)
    return [
        TensorDict({"x": torch.randn(rows, 3, generator=generator), "y": torch.ones(rows, 1)}, [rows])
        for _ in range(number)
    ]


def trained(loss, gradients, data, change=lambda number: None):
    """Losses of updates by Adam, and the parameters and buffers after them."""
    torch.manual_seed(2)
    optimizer, found = torch.optim.Adam(loss.parameters(), lr=0.1, fused=True), []
    for number, batch in enumerate(data):
        change(number)
        found.append(gradients(batch).to_dict())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return found, {name: value.clone() for name, value in loss.state_dict().items()}


def pair(**options):
    """A loss as written and the same one recorded."""
    torch.manual_seed(0)
    plain = Regression()
    other = Regression()
    other.load_state_dict(plain.state_dict())
    return [
        (loss, RecordedGradients(loss, list(loss.parameters()), total, **options)) for loss in (plain, other)
    ]


def assert_same(first, second):
    for one, other in zip(first[0], second[0], strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())


@pytest.mark.parametrize("patience", [0, 2])
def test_the_recorded_course_is_the_written_one(patience):
    (plain, written), (loss, recorded) = pair(patience=patience)
    expected = trained(plain, written.as_written, batches(5))
    assert_same(trained(loss, recorded, batches(5)), expected)
    assert recorded.recordings == 1
    assert expected[1]["seen"] != 0 and len({float(each["seen"]) for each in expected[0]}) == 5


def test_a_number_that_changes_is_noticed():
    (plain, written), (loss, recorded) = pair(patience=0)

    def heavier(which):
        return lambda number: setattr(which, "weight", 3.0 if number >= 2 else 1.0)

    expected = trained(plain, written.as_written, batches(5), heavier(plain))
    assert_same(trained(loss, recorded, batches(5), heavier(loss)), expected)
    assert recorded.recordings == 2


def test_a_number_in_a_dictionary_is_noticed():
    (plain, written), (loss, recorded) = pair(patience=0)

    def heavier(which):
        return lambda number: which.weights.update(error=3.0 if number >= 2 else 1.0)

    expected = trained(plain, written.as_written, batches(5), heavier(plain))
    assert_same(trained(loss, recorded, batches(5), heavier(loss)), expected)
    assert recorded.recordings == 2


def test_a_parameter_that_is_frozen_for_a_while_is_noticed():
    (plain, written), (loss, recorded) = pair(patience=0)

    def frozen(which):
        return lambda number: which.network[0].requires_grad_(number not in (2, 3))

    expected = trained(plain, written.as_written, batches(6), frozen(plain))
    assert_same(trained(loss, recorded, batches(6), frozen(loss)), expected)
    assert recorded.recordings == 2


def test_a_parameter_that_is_replaced_is_noticed():
    """Its memory is elsewhere, so the recording would read the old one."""
    loss = Regression()
    gradients = RecordedGradients(loss, list(loss.parameters()), total, patience=0)
    batch = batches(1)[0]
    gradients(batch)
    loss.network[2].bias.data = torch.full((1,), 100.0)
    assert gradients(batch)["loss_error"] > 1000.0


def test_another_shape_or_mode_is_recorded_apart():
    loss = Regression()
    gradients = RecordedGradients(loss, list(loss.parameters()), total, patience=0)
    for rows in (6, 4, 6):
        gradients(batches(1, rows)[0])
    assert gradients.recordings == 2
    loss.eval()
    gradients(batches(1)[0])
    assert gradients.recordings == 3


def test_a_value_that_changes_every_time_is_never_recorded():
    loss = Regression()
    gradients = RecordedGradients(loss, list(loss.parameters()), total, patience=1)
    for number, batch in enumerate(batches(6)):
        loss.weight = 1.0 + number
        assert gradients(batch)["loss_error"] > 0
    assert gradients.recordings == 0


def test_recording_leaves_buffers_and_random_numbers_alone():
    (plain, written), (loss, recorded) = pair(patience=0)
    batch = batches(1)[0]
    torch.manual_seed(3)
    written.as_written(batch)
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    recorded(batch)
    assert torch.equal(torch.get_rng_state(), expected)
    assert torch.equal(loss.seen, plain.seen) and loss.seen > 0


class Branching(Regression):
    def forward(self, batch):
        return super().forward(batch if batch["x"].sum() > 0 else -batch)


class Selecting(Regression):
    """The mean over the rows that a batch selects, whose number is another one in every batch."""

    def forward(self, batch):
        chosen = batch["x"][:, 0] > 0
        error = (self.network(batch["x"]) - batch["y"])[chosen]
        return TensorDict({"loss_error": error.square().sum() / len(error)}, [])


class Counting(Regression):
    def forward(self, batch):
        self.weight = self.weight + 1.0
        return super().forward(batch)


class Unknown(Regression):
    recordable = False


class Drawing(Regression):
    def __init__(self):
        super().__init__()
        self.generator = torch.Generator()


class Hooked(Regression):
    def __init__(self):
        super().__init__()
        self.network.register_forward_hook(lambda *arguments: None)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Branching, "GuardOnDataDependentSymNode|tracing tensor"),
        (Selecting, "aten.index.Tensor depends on the values of tensors"),
        (Counting, "changes plain Python values"),
        (Unknown, "Unknown may depend on more than its attributes"),
        (Drawing, "Drawing, which has a random generator of its own,"),
        (Hooked, "Sequential, which has hooks,"),
    ],
)
def test_what_cannot_be_recorded_runs_as_written_and_onednn_says_why(kind, why):
    torch.manual_seed(0)
    loss = kind()
    gradients = RecordedGradients(loss, list(loss.parameters()), total, patience=0)
    for batch in batches(3):
        assert gradients(batch)["loss_error"] > 0
        assert all(parameter.grad is not None for parameter in loss.parameters())
    assert gradients.recordings == 0
    strict = RecordedGradients(loss, list(loss.parameters()), total, onednn=True)
    with pytest.raises(NotRecordableError, match=why):
        strict(batches(1)[0])


def test_a_phase_without_gradient_is_no_error():
    loss = Regression().requires_grad_(False)
    gradients = RecordedGradients(loss, list(loss.parameters()), total, onednn=True)
    assert gradients(batches(1)[0])["loss_error"] > 0
    assert loss.network[0].weight.grad is None


def test_gradients_add_up_as_in_autograd():
    loss = Regression()
    gradients = RecordedGradients(loss, list(loss.parameters()), total, patience=0)
    batch = batches(1)[0]
    gradients(batch)
    once = loss.network[2].bias.grad.clone()
    gradients(batch)
    assert loss.network[2].bias.grad.abs() > once.abs()
