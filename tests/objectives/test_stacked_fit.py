"""Many networks fitted at once against the same networks fitted one by one."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from ctmrl_torchrl.modules.stacked_mlp import StackedMLP
from ctmrl_torchrl.objectives.stacked_fit import StackedFit, fit_stacked
from ctmrl_torchrl.rules import NotFiniteError

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def data(tasks=2, rows=60):
    generator = seeded(5)
    inputs = torch.randn(tasks, rows, 3, generator=generator, dtype=torch.float64)
    slopes = torch.randn(tasks, 1, 3, generator=generator, dtype=torch.float64)
    return inputs, (inputs * slopes).sum(-1, keepdim=True).sin()


def network(tasks=2, members=3, seed=1):
    return StackedMLP([tasks, members], 3, 1, [8, 8], generator=seeded(seed)).double()


OPTIONS = dict(rate=1e-2, batch_size=20, decay=(0.01, 0.02), patience=3, improvement=0.05)


def test_each_member_is_fitted_as_if_alone():
    inputs, targets = data()
    fit = fit_stacked(network(), inputs, targets, generator=seeded(), epochs_most=60, **OPTIONS)
    rows = StackedFit(network(), inputs, targets, generator=seeded(), **OPTIONS)
    start = network()
    reference = seeded()
    reference.set_state(rows.generator.get_state())
    orders = [torch.randperm(48, generator=reference) for _ in range(60)]
    for task in range(2):
        alone = [
            [weight[task, member].detach().clone().requires_grad_() for weight in start.parameters()]
            for member in range(3)
        ]
        optimizers = [torch.optim.Adam(parameters, 1e-2) for parameters in alone]
        best, kept, stale = [float("inf")] * 3, [None] * 3, 0

        def predict(parameters, x):
            for number in range(3):
                x = x @ parameters[number] + parameters[3 + number]
                x = functional.silu(x) if number < 2 else x
            return x

        for order in orders:
            improved = False
            for member in range(3):
                for places in order.split(20):
                    drawn = rows.rows[task, member, places]
                    loss = (
                        (predict(alone[member], inputs[task, drawn]) - targets[task, drawn]).square().mean()
                    )
                    for number, rate in enumerate((0.01, 0.02, 0.02)):
                        loss = loss + 0.5 * rate * alone[member][number].square().sum()
                    optimizers[member].zero_grad()
                    loss.backward()
                    optimizers[member].step()
                held = rows.held_rows[task][rows.held_mask[task]]
                error = (predict(alone[member], inputs[task, held]) - targets[task, held]).square().mean()
                if error < 0.95 * best[member]:
                    best[member], improved = error.item(), True
                    kept[member] = [parameter.detach().clone() for parameter in alone[member]]
            stale = 0 if improved else stale + 1
            if stale == 3:
                break
        for member in range(3):
            assert fit.best_error[task, member].item() == pytest.approx(best[member], rel=1e-6)
            for mine, theirs in zip(fit.network.parameters(), kept[member], strict=True):
                torch.testing.assert_close(mine[task, member], theirs)
    assert 3 < fit.epoch < 60  # it stopped by itself


def test_hold_out_and_training_rows_are_apart_and_within_the_task():
    inputs, targets = data(rows=60)
    counts = torch.tensor([60, 11])
    inputs[1, 11:] = torch.nan
    fit = StackedFit(network(), inputs, targets, generator=seeded(), counts=counts, holdout_most=10)
    assert fit.held_mask.sum(-1).tolist() == [10, 2]
    for task in range(2):
        held = set(fit.held_rows[task][fit.held_mask[task]].tolist())
        drawn = set(fit.rows[task].flatten().tolist())
        assert not held & drawn and max(held | drawn) < counts[task]
        assert len(drawn) > 0.8 * (counts[task] - len(held))
    assert not torch.equal(fit.rows[0, 0], fit.rows[0, 1])
    while fit.run_epoch() and fit.epoch < 3:
        pass
    assert fit.best_error.isfinite().all()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_an_interrupted_fit_goes_on_to_the_same_numbers(device, tmp_path):
    options = OPTIONS | {"patience": 50}
    inputs, targets = (value.to(device) for value in data())

    through = fit_stacked(
        network().to(device), inputs, targets, generator=seeded(), epochs_most=12, **options
    )

    def save(fit):
        if fit.epoch == 5:
            torch.save(fit.state_dict(), tmp_path / "fit.pt")

    fit_stacked(
        network().to(device), inputs, targets, generator=seeded(), epochs_most=8, after_epoch=save, **options
    )
    state = torch.load(tmp_path / "fit.pt", weights_only=True, map_location="cpu")
    again = fit_stacked(
        network(seed=9).to(device),
        inputs,
        targets,
        generator=seeded(77),
        state=state,
        epochs_most=12,
        **options,
    )
    assert again.epoch == through.epoch == 12
    torch.testing.assert_close(again.best_error, through.best_error, rtol=0, atol=0)
    for mine, theirs in zip(again.network.parameters(), through.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_a_finished_fit_is_not_taken_further():
    inputs, targets = data()
    done = fit_stacked(network(), inputs, targets, generator=seeded(), epochs_most=4, **OPTIONS)
    weights = [value.clone() for value in done.network.parameters()]
    assert not done.run_epoch() and done.epoch == 4
    for value, before in zip(done.network.parameters(), weights, strict=True):
        torch.testing.assert_close(value, before, rtol=0, atol=0)


def test_wrong_shapes_are_named():
    inputs, targets = data()
    with pytest.raises(ValueError, match="2 tasks of data, but 3 in the stack"):
        StackedFit(network(tasks=3), inputs, targets, generator=seeded())
    with pytest.raises(ValueError, match=r"got \[2, 3\], \[2, 60, 3\] and \[2, 59, 1\]"):
        StackedFit(network(), inputs, targets[:, :59], generator=seeded())
    with pytest.raises(ValueError, match="at least two rows"):
        StackedFit(network(), inputs, targets, generator=seeded(), counts=torch.tensor([60, 1]))


def test_a_fit_without_a_finite_error_is_refused():
    inputs, targets = data()
    targets[1, 3] = torch.nan
    with pytest.raises(
        NotFiniteError, match="[1-3] of 6 networks have no finite error on their hold-out rows"
    ):
        fit_stacked(network(), inputs, targets, generator=seeded(), epochs_most=3, **OPTIONS)


@pytest.mark.parametrize("wrong", [{"holdout_share": 1.0}, {"holdout_share": 0.0}, {"holdout_most": 0}])
def test_rows_to_learn_from_and_rows_held_out(wrong):
    with pytest.raises(ValueError, match="a share between 0 and 1, and at least one row"):
        StackedFit(network(), *data(), generator=seeded(), **OPTIONS, **wrong)
