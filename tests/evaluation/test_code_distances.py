"""The figure of the distances between codes."""

from __future__ import annotations

import doctest
import itertools
import math

import numpy as np
import pytest
import torch
from test_figures import check

from ctmrl_torchrl.evaluation.figures import code_distances as module
from ctmrl_torchrl.evaluation.figures import order_codes, plot_code_distances, style
from ctmrl_torchrl.modules import code_distances

#: two groups, whose codes take turns, and one code far away
CODES = torch.tensor([[0.0, 0.0], [5.0, 0.0], [0.0, 1.0], [5.0, 1.0], [0.0, 2.5], [5.0, 2.5], [40.0, 0.0]])


def test_distances_are_those_of_a_loop():
    codes = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    found = code_distances(codes)
    for (i, a), (j, b) in itertools.product(enumerate(codes.tolist()), repeat=2):
        assert found[i, j].item() == pytest.approx(math.dist(a, b), abs=1e-6)
    assert torch.equal(found, found.mT) and not found.diagonal().any()


def test_groups_stay_together_and_neighbors_are_close():
    distances = code_distances(CODES).numpy()
    order = order_codes(distances)
    assert sorted(order) == list(range(7))
    places = {code: place for place, code in enumerate(order)}
    for group in ((0, 2, 4), (1, 3, 5)):
        at = sorted(places[code] for code in group)
        assert at == list(range(at[0], at[0] + 3))

    def length(order):
        return sum(distances[a, b] for a, b in itertools.pairwise(order))

    # hardly any order of the groups and within them is shorter
    groups = [list(itertools.permutations(group)) for group in ((0, 2, 4), (1, 3, 5), (6,))]
    tours = (
        [*a, *b, *c] for chosen in itertools.permutations(groups) for a, b, c in itertools.product(*chosen)
    )
    assert length(order) <= 1.01 * min(length(tour) for tour in tours) < 0.8 * length(range(7))


@pytest.mark.parametrize("count", [1, 2])
def test_few_codes_keep_their_order(count):
    assert order_codes(code_distances(CODES[:count])) == list(range(count))


def figure_of(monkeypatch, tmp_path, *arguments, **options):
    kept, save = [], style.save_figure
    monkeypatch.setattr(
        style, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))[1]
    )
    check(plot_code_distances(*arguments, tmp_path / "codes.png", **options), width=600)
    return kept[0]


def test_what_is_drawn(monkeypatch, tmp_path):
    distances, usage = code_distances(CODES), [3, 0, 1, 2, 4, 5, 6]
    figure = figure_of(monkeypatch, tmp_path, distances, usage, subtitle="by hand")
    order = order_codes(distances)
    matrix, bars, _ = figure.axes
    shown = np.asarray(matrix.images[0].get_array())
    np.testing.assert_allclose(shown, distances.numpy()[np.ix_(order, order)])
    assert [text.get_text() for text in matrix.get_yticklabels()] == [str(code) for code in order]
    assert [bar.get_width() for bar in bars.patches] == [usage[code] for code in order]
    assert bars.get_xlabel() == "training tasks"
    assert len(matrix.texts) == 49
    written = {tuple(text.get_position()): text.get_text() for text in matrix.texts}
    assert written[0, 0] == "0" and written[1, 0] == f"{shown[0, 1]:.0f}"


def test_many_codes_have_no_numbers_and_usage_may_be_unknown(monkeypatch, tmp_path):
    codes = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    figure = figure_of(monkeypatch, tmp_path, code_distances(codes), None)
    matrix, _ = figure.axes
    assert len(matrix.texts) == 0 and len(matrix.get_xticklabels()) == 20


@pytest.mark.parametrize("codes", [CODES[:1], torch.ones(3, 2), 1e-4 * CODES, 1e4 * CODES])
def test_codes_of_any_scale(codes, monkeypatch, tmp_path):
    figure_of(monkeypatch, tmp_path, code_distances(codes), np.zeros(len(codes)))


@pytest.mark.parametrize(
    ("distances", "usage", "message"),
    [
        (torch.zeros(2, 3), None, r"shape \[N, N\], got \[2, 3\]"),
        (torch.zeros(0, 0), None, r"shape \[N, N\], got \[0, 0\]"),
        (torch.ones(2, 2), None, "zeros on the diagonal"),
        (torch.tensor([[0.0, 1.0], [2.0, 0.0]]), None, "symmetric"),
        (torch.tensor([[0.0, torch.nan], [torch.nan, 0.0]]), None, "symmetric"),
        (torch.zeros(2, 2), [1, 2, 3], "3 entries for 2 codes"),
    ],
)
def test_wrong_shapes_are_named(distances, usage, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plot_code_distances(distances, usage, tmp_path / "codes.png")


def test_examples_run_as_printed():
    assert doctest.testmod(module).failed == 0
