"""Pictures of the MuJoCo robots: speed over time, frames of an episode."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_figures import check

from ctmrl_torchrl.evaluation.figures import plot_film, plot_speed, save_film


def places(seed, speeds, steps=100, step=0.05):
    noise = np.random.default_rng(seed).normal(0, 0.5, (len(speeds), steps))
    speed = np.array(speeds)[:, None] + noise
    return np.concatenate([np.zeros((len(speeds), 1)), (speed * step).cumsum(1)], 1)


def test_speed(tmp_path):
    targets = torch.tensor([1.1, 1.9, 2.95])
    before, after = places(0, [0, 0, 0]), torch.as_tensor(places(1, [1.2, 1.8, 2.7]))
    picture = plot_speed(
        before, after, targets, 0.05, tmp_path / "speed.png", subtitle="half_cheetah_vel, method ctmrl"
    )
    check(picture)


def test_speed_errors(tmp_path):
    with pytest.raises(ValueError, match=r"before must have the shape \[2, steps\]"):
        plot_speed(np.zeros((3, 9)), np.zeros((2, 9)), [1, 2], 0.05, tmp_path / "a.png")
    with pytest.raises(ValueError, match="between 1 and 8 tasks, got 9"):
        plot_speed(np.zeros((9, 9)), np.zeros((9, 9)), np.ones(9), 0.05, tmp_path / "a.png")


def test_film(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (2, 5, 60, 80, 3), dtype=np.uint8)
    captions = [[f"{k}.0 s" for k in range(5)]] * 2
    pixels = check(
        plot_film(list(frames), ("Before", "After"), captions, tmp_path / "film.png", subtitle="hopper")
    )
    assert (pixels < 128).mean() > 0.05


def test_an_animated_film_is_small_and_shows_every_moment(tmp_path):
    frames = np.zeros((2, 6, 60, 80, 3), dtype=np.uint8)
    frames[1] = np.arange(6)[:, None, None, None] * 40
    captions = [[f"{k}.0 s" for k in range(6)]] * 2
    path = save_film(
        list(frames), ("Before", "After"), captions, tmp_path / "film.gif", title="hopper", seconds=3.0
    )
    with Image.open(path) as film:
        assert film.n_frames == 6 and film.info["duration"] == 500 and film.info["loop"] == 0
        film.seek(5)
        shown = np.asarray(film.convert("RGB"))
    assert abs(int(shown[70, 130, 0]) - 200) < 25 and shown[70, 40, 0] < 25


def test_film_errors(tmp_path):
    frames = np.zeros((5, 60, 80, 3), dtype=np.uint8)
    with pytest.raises(ValueError, match="row names"):
        plot_film([frames], ("Before", "After"), [["a"] * 5], tmp_path / "film.png")
    with pytest.raises(ValueError, match="equal numbers"):
        plot_film([frames, frames[:3]], ("Before", "After"), [["a"] * 5] * 2, tmp_path / "film.png")
