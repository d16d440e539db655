from __future__ import annotations

import csv

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from tensordict import TensorDict

from ctmrl_torchrl.evaluation.figures import (
    contexts,
    plot_adaptation,
    plot_codes_sweep,
    plot_context_map,
    plot_context_shift,
    plot_learning,
    plot_snapshot_returns,
    plot_trajectories,
    read_metrics,
    style,
)

RANDOM, OPTIMUM, PAPER = -20.36, -3.855, -4.81


def check(path, width=800, height=350):
    assert 5_000 < path.stat().st_size < 300_000
    pixels = np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)
    assert pixels.shape[1] >= width and pixels.shape[0] >= height
    # Nothing is cut off: the outermost pixels are blank.
    border = np.concatenate([pixels[:2].reshape(-1, 3), pixels[-2:].reshape(-1, 3)])
    sides = np.concatenate([pixels[:, :2].reshape(-1, 3), pixels[:, -2:].reshape(-1, 3)])
    assert (border > 250).all() and (sides > 250).all()
    return pixels


def adaptation_curves():
    mean = -4.6 - 5 * np.exp(-np.arange(15) / 2)
    explore = np.concatenate([np.full(3, -20.3), mean[:12]])
    return {
        "np": {
            "mean": torch.as_tensor(explore),
            "low": torch.as_tensor(explore - 0.3),
            "high": explore + 0.3,
        },
        "codes": {"mean": mean, "low": mean - 0.2, "high": mean + 0.2},
        "offline": {"mean": [-4.6], "low": [-4.8], "high": [-4.4]},
    }


def metrics():
    generator = np.random.default_rng(0)
    steps = np.arange(0, 12001, 1000)
    series = {
        f"eval/{split}/{protocol}/return": (steps, final - 15 * np.exp(-steps / 2500))
        for split in ("test", "train")
        for protocol, final in (("np", -4.6), ("offline", -4.4), ("codes", -4.9))
    }
    dense = np.arange(0, 12000, 10)
    for name, level in (("prediction", 0.01), ("contrastive", 0.5), ("actor", -2.0)):
        noise = np.exp(generator.normal(0, 0.2, dense.size))
        series[f"loss/loss_{name}"] = (dense, level * (1 + 60 * np.exp(-dense / 500)) * noise)
    series["codebook/perplexity"] = (dense[360:], 7 - 2 * np.exp(-dense[:-360] / 1000))
    series["codebook/dead_codes"] = (dense[360:], (dense[360:] < 4500) * 2.0)
    for name, level in (("np1", 0.3), ("np10", 0.04), ("offline", 0.06)):
        series[f"context_noise/{name}"] = (steps, level * (1 + 8 * np.exp(-steps / 1500)))
    return series


def context_map(tasks=40, repeats=3):
    generator = np.random.default_rng(0)
    angles = np.pi * np.arange(tasks) / (tasks - 1)
    goals = np.stack([np.cos(angles), np.sin(angles)], 1)
    contexts = np.tanh(np.concatenate([goals, goals**2], 1) @ generator.normal(size=(4, 20)))
    contexts = np.repeat(contexts, repeats, 0) + generator.normal(0, 0.05, (tasks * repeats, 20))
    index = np.repeat(np.arange(tasks) * 8 // tasks, repeats)
    codes = np.stack([contexts[index == code].mean(0) for code in range(8)])
    return contexts, np.repeat(goals, repeats, 0), codes


def paths(tasks=5):
    generator = np.random.default_rng(0)
    angles = np.pi * np.arange(tasks) / max(tasks - 1, 1)
    goals = np.stack([np.cos(angles), np.sin(angles)], 1)
    steps = generator.uniform(-0.1, 0.1, (tasks, 20, 2))
    before = np.concatenate([np.zeros((tasks, 1, 2)), steps.cumsum(1)], 1)
    after = goals[:, None] * np.minimum(np.arange(21) * 0.1, 1)[None, :, None]
    return before, after, goals


def test_adaptation(tmp_path):
    path = plot_adaptation(
        adaptation_curves(), RANDOM, OPTIMUM, PAPER, tmp_path / "deep" / "a.png", subtitle="x"
    )
    check(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.png"]
    only = {"np": {"mean": np.linspace(-19, -18, 10)}}  # a failed run, no references, no intervals
    check(plot_adaptation(only, None, None, None, tmp_path / "b.png"))
    nested = TensorDict({"np": {"mean": torch.linspace(-9, -4, 5)}}, batch_size=[])
    check(plot_adaptation(nested, RANDOM, OPTIMUM, PAPER, tmp_path / "c.png"))


def test_adaptation_errors(tmp_path):
    with pytest.raises(ValueError, match="no protocol"):
        plot_adaptation({}, RANDOM, OPTIMUM, PAPER, tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"returns\['np'\]\['low'\] has 2 values, but 'mean' has 3"):
        plot_adaptation({"np": {"mean": [1, 2, 3], "low": [1, 2]}}, None, None, None, tmp_path / "a.png")
    with pytest.raises(ValueError, match="PNG"):
        plot_adaptation(adaptation_curves(), RANDOM, OPTIMUM, PAPER, tmp_path / "a.pdf")


def test_floor_is_not_squashed_by_the_random_policy():
    values = np.array([-20.3, -7.0, -5.0])
    assert -9 < style.clipped_floor(values, np.array([-5.0]), OPTIMUM, RANDOM) < -7
    # Final results stay in view, and then so does the random policy near them.
    assert style.clipped_floor(values, np.array([-19.0]), OPTIMUM, RANDOM) < RANDOM
    assert style.clipped_floor(values, np.array([-5.0]), OPTIMUM, None) < -20.3


def test_labels_keep_apart_and_in_order():
    halves = [0.03, 0.06, 0.03, 0.03]
    heights = style._spread([0.5, 0.51, 0.52, 0.99], halves, gap=0.01)
    for lower, upper, below, above in zip(heights, heights[1:], halves, halves[1:], strict=False):
        assert upper - lower >= below + above + 0.01 - 1e-9
    assert style._spread([0.1, 0.9], [0.03, 0.03], gap=0.01) == pytest.approx([0.1, 0.9])


def test_learning_from_csv_and_from_a_mapping(tmp_path):
    source = tmp_path / "metrics.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "name", "value"])
        for name, (steps, values) in metrics().items():
            writer.writerows([step, name, value] for step, value in zip(steps, values, strict=True))
    series = read_metrics(source)
    np.testing.assert_allclose(series["eval/test/np/return"][1], metrics()["eval/test/np/return"][1])
    options = {"random": RANDOM, "optimum": OPTIMUM, "codes": 8, "subtitle": "Point-Robot"}
    from_csv = check(plot_learning(source, tmp_path / "a.png", **options))
    from_mapping = check(plot_learning(metrics(), tmp_path / "b.png", **options))
    assert np.array_equal(from_csv, from_mapping)
    marks = {"codes begin": 1000, "policy begins": 2000}
    marked = check(plot_learning(metrics(), tmp_path / "c.png", milestones=marks, **options))
    assert marked.shape == from_csv.shape and not np.array_equal(marked, from_csv)


def test_learning_leaves_out_what_is_missing(tmp_path):
    full = metrics()
    few = {"loss/loss_actor": [(0, 1.0), (10, float("nan")), (20, 0.5)], "lr": [(0, 1e-3)]}
    small = check(plot_learning(few, tmp_path / "a.png"), width=400, height=300)
    test_only = {
        "eval/test/np/return": full["eval/test/np/return"],
        "context_noise/np": [(0, 0.5), (10, np.inf)],
    }
    larger = check(plot_learning(test_only, tmp_path / "b.png"), width=700, height=300)
    assert larger.shape[1] > small.shape[1]
    with pytest.raises(ValueError, match=r"no series.*'lr'"):
        plot_learning({"lr": [(0, 1e-3)]}, tmp_path / "c.png")


def test_metrics_errors_name_the_place(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name\n1,loss/a\n")
    with pytest.raises(ValueError, match=r"metrics\.csv lacks the column\(s\) \['value'\]"):
        read_metrics(path)
    path.write_text("step,name,value\n1,loss/a,0.5\n2,loss/a,oops\n")
    with pytest.raises(ValueError, match="line 3.*oops"):
        read_metrics(path)


def test_context_map(tmp_path):
    contexts, goals, codes = context_map()
    test = np.repeat(np.isin(np.arange(40), np.arange(2, 40, 4)), 3)
    names = ("goal_x", "goal_y")
    path = plot_context_map(
        torch.as_tensor(contexts),
        goals,
        codes,
        tmp_path / "a.png",
        is_test=test,
        parameter_names=names,
    )
    both = check(path)
    # Unused codes far away, wind directions all around, no test tasks.
    codes = np.concatenate([codes, np.full((2, 20), 9.0)])
    wind = np.random.default_rng(0).normal(size=goals.shape)
    check(plot_context_map(contexts, wind, codes, tmp_path / "b.png"))
    check(plot_context_map(contexts, goals[:, :1], codes, tmp_path / "c.png"))
    # A method without codes has one panel.
    one = check(plot_context_map(contexts, goals, None, tmp_path / "d.png", is_test=test), width=500)
    assert one.shape[1] < 0.7 * both.shape[1]


def test_contexts_take_the_color_of_the_code_that_points_their_way():
    points, _, codes = context_map()
    expected = torch.nn.functional.cosine_similarity(
        torch.as_tensor(points).unsqueeze(1), torch.as_tensor(codes).unsqueeze(0), dim=-1
    ).argmax(1)
    # lengths do not count
    assert contexts._closest(points, codes * np.arange(1, 9)[:, None]).tolist() == expected.tolist()
    assert len(set(expected.tolist())) > 4


def test_of_many_parameters_the_one_that_the_map_tells_best_is_shown():
    generator = np.random.default_rng(0)
    points = generator.normal(size=(60, 2))
    parameters = generator.normal(size=(60, 5))
    parameters[:, 0] = 1.0  # of all tasks
    parameters[:, 3] = points @ [2.0, -1.0] + generator.normal(size=60) / 99
    values, label, *_ = contexts._parameter(parameters, list("abcde"), points)
    assert label == "d\n(most visible of 5 parameters, R\u00b2 1.00)" and np.array_equal(
        values, parameters[:, 3]
    )
    assert contexts._parameter(parameters[:, :1], ["velocity"], points)[1] == "velocity"


def test_only_coordinates_have_a_direction():
    points = np.random.default_rng(0).normal(size=(60, 2))
    parameters = np.stack([points[:, 0] ** 2, points @ [2.0, -1.0]], 1)
    for names in (["wind_x", "wind_y"], None):
        values, label, *_ = contexts._parameter(parameters, names, points)
        assert "direction (degrees)" in label
        assert np.allclose(values, np.rad2deg(np.arctan2(parameters[:, 1], parameters[:, 0])))
    for names in (["mass", "length"], ["goal_x", "wind_y"]):
        values, label, *_ = contexts._parameter(parameters, names, points)
        assert label.startswith(names[1].replace("_", " ")) and np.array_equal(values, parameters[:, 1])


def test_context_map_errors(tmp_path):
    contexts, goals, codes = context_map()
    with pytest.raises(ValueError, match="task_parameters has 40 rows, but there are 120 contexts"):
        plot_context_map(contexts, goals[::3], codes, tmp_path / "a.png")
    with pytest.raises(ValueError, match="is_test has 40 rows, but there are 120 contexts"):
        plot_context_map(contexts, goals, codes, tmp_path / "a.png", is_test=np.zeros(40, bool))
    with pytest.raises(ValueError, match="same width"):
        plot_context_map(contexts, goals, codes[:, :5], tmp_path / "a.png")


def test_trajectories(tmp_path):
    before, after, goals = paths()
    panels = {"Before": before, "After": torch.as_tensor(after)}
    two = check(plot_trajectories(panels, goals, tmp_path / "a.png", goal_radius=0.2))
    before[0, 15:] = np.nan  # ended early
    wind = np.tile([[1.0, 0.0]], (5, 1))
    three = check(plot_trajectories(panels | {"After more": after}, wind, tmp_path / "b.png"))
    assert three.shape[1] > 1.3 * two.shape[1]
    with pytest.raises(ValueError, match="at least one"):
        plot_trajectories({}, goals, tmp_path / "c.png")
    many, _, nine = paths(9)
    with pytest.raises(ValueError, match="between 1 and 8 tasks, got 9"):
        plot_trajectories({"Before": many}, nine, tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"After must have the shape \[5, steps, 2\]"):
        plot_trajectories({"After": after[:4]}, goals, tmp_path / "c.png")
    with pytest.raises(ValueError, match="labels has 1 entries for 5 tasks"):
        plot_trajectories(panels, goals, tmp_path / "c.png", labels=["task"])


def test_snapshots(tmp_path):
    steps = np.arange(14) * 500
    spread = np.random.default_rng(0).normal(0, 0.5, (14, 40))
    returns = -4.2 - 16.5 * np.exp(-steps[:, None] / 1500) + spread
    check(plot_snapshot_returns(steps, returns, RANDOM, OPTIMUM, tmp_path / "a.png"))
    check(plot_snapshot_returns([0, 1], returns[:2], None, None, tmp_path / "b.png", numbered=True))
    with pytest.raises(ValueError, match=r"14 snapshots.*\[13, 40\]"):
        plot_snapshot_returns(steps, returns[:13], RANDOM, OPTIMUM, tmp_path / "b.png")


def test_a_snapshot_without_data_of_some_tasks_is_the_mean_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(style, "save_figure", lambda figure, path: figure)
    returns = [[1.0, 3.0], [np.nan, 4.0]]
    figure = plot_snapshot_returns([0, 1], returns, None, None, tmp_path / "a.png")
    assert figure.axes[0].lines[0].get_ydata().tolist() == [2.0, 4.0]


def test_codes_sweep(tmp_path):
    codes = [4, 2, 8, 16]
    results = {
        "codes": {"codes": codes, "mean": [3.3, 3, 5.9, 9.2], "low": [3, 2.7, 5, 8], "high": [4, 3.5, 7, 10]},
        "np": {"codes": codes, "mean": [1.7, 1.6, 1.9, 1.8]},
        "paper": {"codes": [2, 4, 8], "mean": [12.26, 12.45, 12.38]},
    }
    check(plot_codes_sweep(results, 13.375, tmp_path / "a.png", random=0.0007))
    with pytest.raises(ValueError, match=r"results\['np'\].*got 4 codes, 1 means"):
        plot_codes_sweep({"np": {"codes": codes, "mean": [1.7]}}, 13.375, tmp_path / "b.png")
    with pytest.raises(ValueError, match="no protocol"):
        plot_codes_sweep({}, None, tmp_path / "b.png")


def test_same_data_same_file_and_no_state_left(tmp_path):
    settings = dict(matplotlib.rcParams)
    files = [
        plot_adaptation(adaptation_curves(), RANDOM, OPTIMUM, PAPER, tmp_path / f"{name}.png").read_bytes()
        for name in ("a", "b")
    ]
    assert files[0] == files[1]
    assert dict(matplotlib.rcParams) == settings


def test_large_pictures_are_made_small(tmp_path):
    figure = style.new_figure(8, 6)
    noise = np.random.default_rng(0).random((150, 200, 3))
    figure.add_axes((0, 0, 1, 1)).imshow(noise, aspect="auto", interpolation="bilinear")
    path = style.save_figure(figure, tmp_path / "a.png")
    assert path.stat().st_size < 300_000


def test_context_shift(tmp_path):
    curve = np.linspace(-15.0, -4.5, 20)
    settings = {
        "ours": {"offline": curve, "np": curve - 0.3},
        "theirs": {"offline": curve, "np": curve - 9.0},
    }
    check(plot_context_shift(settings, -3.855, tmp_path / "shift.png", subtitle="synthetic"))
    with pytest.raises(ValueError, match="settings is empty"):
        plot_context_shift({}, None, tmp_path / "none.png")
