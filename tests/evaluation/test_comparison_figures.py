"""Figures that show methods side by side."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ctmrl_torchrl.evaluation.figures import plot_adaptation_panels, plot_intervals, plot_profiles
from ctmrl_torchrl.evaluation.figures.comparison import _line

ENTRY = {"mean": -5.0, "low": -5.5, "high": -4.5, "runs": [-5.4, -4.6]}
CURVE = {"mean": [-9.0, -6.0, -5.0], "low": [-9.5, -6.5, -5.5], "high": [-8.5, -5.5, -4.5]}
ONE_SEED = {"mean": -6.0, "low": None, "high": None, "runs": [-6.0]}


def is_drawn(file, least_colours=6):
    image = Image.open(file)
    assert file.stat().st_size < 300_000
    return len(image.convert("RGB").getcolors(10**6)) >= least_colours and min(image.size) > 150


@pytest.mark.parametrize("panels", [1, 5])
def test_intervals_and_curves(tmp_path, panels):
    names = [f"environment {number}" for number in range(panels)]
    references = {names[0]: {"optimum": -3.9}}
    entries = {name: {"ctmrl": ENTRY, "focal": ONE_SEED} for name in names}
    entries[names[-1]].pop("focal")  # a method may lack an environment
    assert is_drawn(plot_intervals(entries, tmp_path / "intervals.png", references=references))
    curves = {name: {"ctmrl": CURVE, "focal": CURVE | {"low": None, "high": None}} for name in names}
    assert is_drawn(plot_adaptation_panels(curves, tmp_path / "curves.png", references=references))


def test_profiles_of_more_methods_than_colours(tmp_path):
    thresholds = np.linspace(0, 1, 11)
    shares = 1 - thresholds
    profiles = {f"method {number}": (shares**number, None) for number in range(1, 12)}
    profiles["method 1"] = (shares, np.stack([shares * 0.9, shares]))
    assert is_drawn(plot_profiles(thresholds, profiles, tmp_path / "profiles.png"), 12)


def test_nothing_to_draw(tmp_path):
    for plot in (plot_intervals, plot_adaptation_panels):
        with pytest.raises(ValueError, match="panels is empty"):
            plot({}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="contains no method"):
        plot_profiles([0.0], {}, tmp_path / "x.png")
    with pytest.raises(ValueError, match="has 1 values, expected one for each of the 2"):
        plot_profiles([0.0, 1.0], {"a": (np.ones(1), None)}, tmp_path / "x.png")


def test_many_methods_differ_in_color_or_dash():
    lines = [_line(index) for index in range(20)]
    assert len({(line["color"], str(line["linestyle"])) for line in lines}) == 20
    assert [line["linestyle"] for line in lines[:8]] == ["-"] * 8
    assert len({line["color"] for line in lines[:8]}) == 8
