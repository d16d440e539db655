"""Every figure can be read: contrast of its texts, and no text on another text, a line or a marker."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Text
from test_comparison_figures import CURVE, ENTRY
from test_figures import OPTIMUM, PAPER, RANDOM, adaptation_curves, context_map, metrics, paths
from test_robot_figures import places

from ctmrl_torchrl.collectors import PROTOCOLS, AdaptationProtocol, register_protocol
from ctmrl_torchrl.evaluation import figures
from ctmrl_torchrl.evaluation.figures import colors, contexts, placing, style
from ctmrl_torchrl.evaluation.figures.protocols import protocol_looks, protocol_text
from ctmrl_torchrl.modules import code_distances


def every_protocol():
    generator = np.random.default_rng(1)
    curves = {}
    for name in PROTOCOLS:
        mean = -4.0 - generator.uniform(0, 8) * np.exp(-np.arange(20) / 4) - generator.uniform(0, 3)
        mean = mean[:1] if name in ("none", "told") else mean
        curves[name] = {"mean": mean, "low": mean - 0.5, "high": mean + 0.3}
    return curves


def piled_up_codes():
    """Contexts around the origin, where some codes in use and some unused ones lie on top of each other."""
    generator = np.random.default_rng(0)
    points = generator.normal(size=(150, 2)) * [0.4, 0.3]
    codes = [
        [0.4, 0.2],
        [-0.5, 0.4],
        [0.0, -0.3],
        [-0.01, -0.31],
        [0.02, -0.29],
        [0.001, 0.0006],
        [0.002, 0.001],
    ]
    plane = np.linalg.qr(generator.normal(size=(6, 2)))[0].T
    return points @ plane, np.concatenate([points, points[:, :1]], 1), np.array(codes) @ plane


def draw_map(folder, contexts, parameters, codes):
    test = np.arange(len(contexts)) % 4 == 0
    names = [f"log_mass_{number}" for number in range(parameters.shape[1])]
    figures.plot_context_map(
        contexts,
        parameters,
        codes,
        folder / "map.png",
        is_test=test,
        parameter_names=names,
        subtitle="walker",
    )


def draw_adaptation(folder, curves, best_name):
    figures.plot_adaptation(
        curves, RANDOM, OPTIMUM, PAPER, folder / "a.png", subtitle="point_robot", best_name=best_name,
        random_episodes=10,
    )  # fmt: skip


def draw_learning(folder, everything):
    marks = {"codes begin": 1000, "policy begins": 2000}
    figures.plot_learning(
        metrics(), folder / "learning.png", everything=everything, random=RANDOM, optimum=OPTIMUM, codes=8,
        subtitle="Point-Robot, method ctmrl, 10 unseen tasks", milestones=marks,
        representation=["loss_prediction", "loss_contrastive"],
    )  # fmt: skip


def draw_sweep(folder):
    results = {
        name: {
            "codes": [2, 4, 8, 16],
            "mean": np.arange(4) + place,
            "low": np.arange(4),
            "high": np.arange(4) + 5,
        }
        for place, name in enumerate(["offline", "np", "np_refine", "codes", "paper"])
    }
    figures.plot_codes_sweep(results, 13.375, folder / "codes.png", random=0.0007)


def draw_snapshots(folder, best_name):
    steps = np.arange(14) * 500
    returns = -4.2 - 16.5 * np.exp(-steps[:, None] / 1500) + np.random.default_rng(0).normal(0, 0.5, (14, 40))
    figures.plot_snapshot_returns(steps, returns, RANDOM, OPTIMUM, folder / "data.png", best_name=best_name)


def draw_shift(folder):
    curve = np.linspace(-15.0, -4.5, 20)
    settings = {
        name: {"offline": curve, "np": curve - 0.3, "np_refine": curve - 5} for name in ("ours", "theirs")
    }
    figures.plot_context_shift(settings, OPTIMUM, folder / "shift.png", subtitle="synthetic")


def draw_comparison(folder, methods=("ctmrl", "focal", "unicorn_sup")):
    references = {"point": {"optimum": -3.9}, "wind": {"behavior": -5.6}}
    entries = {panel: dict.fromkeys(methods, ENTRY) for panel in references}
    figures.plot_intervals(entries, folder / "intervals.png", references=references)
    curves = {panel: dict.fromkeys(methods, CURVE) for panel in references}
    figures.plot_adaptation_panels(curves, folder / "curves.png", references=references)
    shares = np.linspace(1, 0, 11)
    figures.plot_profiles(shares[::-1], {name: (shares, None) for name in methods}, folder / "profiles.png")


def draw_codes(folder, count):
    codes = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    figures.plot_code_distances(
        code_distances(codes),
        np.arange(count) % 9,
        folder / "codes.png",
        subtitle="point_robot, method ctmrl",
    )


def draw_robots(folder):
    before, after = places(0, [0, 0, 0]), places(1, [1.2, 1.8, 2.7])
    figures.plot_speed(before, after, np.array([1.1, 1.15, 2.95]), 0.05, folder / "speed.png")
    frames = np.zeros((2, 5, 60, 80, 3), dtype=np.uint8)
    captions = [[f"{k}.0 s, 1.2 m to go" for k in range(5)]] * 2
    figures.plot_film(list(frames), ("Before", "After"), captions, folder / "film.png")


def draw_paths(folder):
    before, after, goals = paths()
    panels = {"Before: random actions": before, "After np, mean return -4.50": after}
    figures.plot_trajectories(panels, goals, folder / "paths.png", goal_radius=0.2)


DRAWINGS = {
    "adaptation": lambda folder: draw_adaptation(folder, adaptation_curves(), "optimum"),
    "adaptation of every protocol": lambda folder: draw_adaptation(folder, every_protocol(), "behavior"),
    "learning": lambda folder: draw_learning(folder, False),
    "all learning curves": lambda folder: draw_learning(folder, True),
    "map": lambda folder: draw_map(folder, *context_map()),
    "map with codes on top of each other": lambda folder: draw_map(folder, *piled_up_codes()),
    "map without codes": lambda folder: draw_map(folder, *piled_up_codes()[:2], None),
    "sweep": draw_sweep,
    "data": lambda folder: draw_snapshots(folder, "optimum"),
    "data of a robot": lambda folder: draw_snapshots(folder, "behavior"),
    "shift": draw_shift,
    "comparison": draw_comparison,
    "comparison of long names": lambda folder: draw_comparison(
        folder, ("full", f"without_{'long_' * 8}part")
    ),
    "comparison of many": lambda folder: draw_comparison(folder, [f"level {k}" for k in range(40)]),
    "codes": lambda folder: draw_codes(folder, 8),
    "the most codes with numbers": lambda folder: draw_codes(folder, 16),
    "many codes": lambda folder: draw_codes(folder, 60),
    "robots": draw_robots,
    "paths": draw_paths,
}


@pytest.fixture(scope="module", params=DRAWINGS)
def drawn(request, tmp_path_factory):
    """The figures of one drawing as they were saved."""
    kept, save = [], style.save_figure
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(style, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))[1])
        DRAWINGS[request.param](tmp_path_factory.mktemp("figures"))
    assert kept
    return kept


def texts_of(figure):
    """Texts in view; matplotlib keeps tick labels outside the axes too."""
    figure.canvas.draw()
    ticks = {
        id(tick.label1)
        for axes in figure.axes
        for axis, (low, high) in (
            (axes.xaxis, sorted(axes.get_xlim())),
            (axes.yaxis, sorted(axes.get_ylim())),
        )
        for tick in [*axis.majorTicks, *axis.minorTicks]
        if not low <= tick.get_loc() <= high
    }
    return [
        text for text in figure.findobj(Text)
        if text.get_visible() and text.get_text().strip() and id(text) not in ticks
    ]  # fmt: skip


def box_of(text, shrink=1.0):
    """Left, bottom, right and top of a text in pixels, less the blank edge of its line box."""
    box = Text.get_window_extent(text)
    return np.array([box.x0 + shrink, box.y0 + shrink, box.x1 - shrink, box.y1 - shrink])


def background_of(text):
    """The color of the matrix's cell on which a text lies, else white."""
    images = text.axes.images if text.axes is not None and text in text.axes.texts else ()
    for image in images:
        if image.get_array().ndim == 2:
            column, row = text.get_position()
            return to_hex(image.cmap(image.norm(image.get_array()[row, column])))
    return "white"


def test_every_text_stands_out_from_its_background(drawn):
    for figure in drawn:
        for text in texts_of(figure):
            contrast = colors.contrast(text.get_color(), background_of(text))
            assert contrast >= 4.5, (text.get_text(), text.get_color())


def test_no_text_lies_on_another_or_outside(drawn):
    for figure in drawn:
        width, height = figure.canvas.get_width_height()
        boxes = [(text.get_text(), box_of(text)) for text in texts_of(figure)]
        for text, (left, bottom, right, top) in boxes:
            assert left > 0 and bottom > 0 and right < width and top < height, text
        for (first, a), (second, b) in itertools.combinations(boxes, 2):
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
            assert apart, (first, second)


def spots_of(axes):
    """Pixels on the lines of the axes, and of its scattered markers."""
    for line in axes.lines:
        points = line.get_transform().transform(line.get_xydata())
        points = points[np.isfinite(points).all(1)]
        if len(points) > 1 and line.get_linestyle() != "None":
            along = np.linspace(0, 1, 60)[:, None, None]
            points = (points[:-1] * (1 - along) + points[1:] * along).reshape(-1, 2)
        frame = axes.get_window_extent()
        if line.get_clip_on():
            points = points[((points >= frame.min) & (points <= frame.max)).all(1)]
        yield points
    for marks in axes.collections:
        if isinstance(marks, PathCollection):
            yield marks.get_offset_transform().transform(marks.get_offsets())


def test_no_text_lies_on_a_line_or_a_marker(drawn):
    for figure in drawn:
        texts = [(text.get_text(), box_of(text)) for text in texts_of(figure)]
        for axes in figure.axes:
            for points in spots_of(axes):
                for text, (left, bottom, right, top) in texts:
                    x, y = np.asarray(points).T
                    assert not ((x > left) & (x < right) & (y > bottom) & (y < top)).any(), text


def test_a_long_subtitle_stays_inside_the_figure():
    figure = style.new_figure(6.0, 4.0)
    axes = figure.add_axes((0.1, 0.1, 0.8, 0.7))
    style.heading(figure, axes, "Title", "words " * 20)
    assert box_of(figure.texts[1])[2] <= figure.bbox.width
    assert figure.texts[0].get_fontsize() == 13.5 and figure.texts[1].get_fontsize() < 10.5


def test_unused_codes_have_no_number(tmp_path, monkeypatch):
    kept, save = [], style.save_figure
    monkeypatch.setattr(
        style, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))[1]
    )
    points, parameters, codes = piled_up_codes()
    codes[-1] = codes[1] * -50  # far outside the map, and closest to nothing once 2 points its way
    codes[2] = -codes[1]
    draw_map(tmp_path, points, parameters, codes)
    used = np.unique(contexts._closest(points, codes)).tolist()
    assert 0 < len(used) < len(codes)
    axes = next(axes for axes in kept[0].axes if axes.get_title(loc="left") == "Color: closest code")
    assert sorted(int(text.get_text()) for text in axes.texts) == used
    assert any("unused code" in text.get_text() for text in axes.get_legend().get_texts())


def titles(monkeypatch, tmp_path, series, **options):
    kept, save = [], style.save_figure
    monkeypatch.setattr(
        style, "save_figure", lambda figure, path: (kept.append(figure), save(figure, path))[1]
    )
    figures.plot_learning(series, tmp_path / "learning.png", **options)
    return [axes.get_title(loc="left") for axes in kept[0].axes]


def test_the_four_curves_to_look_at_first(monkeypatch, tmp_path):
    line = (np.array([0, 1, 2]), np.array([3.0, 2.0, 1.0]))
    names = ["loss_near", "loss_far", "loss_value", "loss_actor", "loss_qvalue"]
    losses = {f"loss/{name}": line for name in names}
    terms = {"representation": ["loss_near", "loss_far"]}
    shown = titles(monkeypatch, tmp_path, losses, **terms)
    assert shown == ["Representation loss", "Critic loss", "Actor loss", "Near loss"]
    named = terms | {"main": "loss_far", "titles": {"loss_far": "Distance loss"}}
    codes = {"codebook/perplexity": line, "eval/test/np/return": line, "eval/train/np/return": line}
    shown = titles(monkeypatch, tmp_path, losses | codes, **named)
    assert shown == [
        "Return during training",
        "Representation: distance loss",
        "Critic loss",
        "Use of the codebook",
    ]
    everything = titles(monkeypatch, tmp_path, losses | codes, everything=True, **named)
    assert len(everything) == 8 and {"Distance loss", "State-value loss", "Return, training tasks"} < set(
        everything
    )


def test_a_label_finds_the_one_free_place():
    figure = style.new_figure(4, 4)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 288)
    axes.set_ylim(0, 288)
    grid = np.stack(np.meshgrid(np.arange(4, 288, 8), np.arange(4, 288, 8)), -1).reshape(-1, 2)
    free = np.array([181.0, 144.0])
    grid = grid[np.abs(grid - free).max(1) > 16]
    placing.place_labels(axes, ["7"], np.array([[144.0, 144.0]]), grid)
    (label,) = axes.texts
    assert np.abs(label.get_position() - (free - 144)).max() < 9


def test_two_protocols_never_look_the_same():
    @register_protocol("guest")
    class Guest(AdaptationProtocol):
        description = "what a guest does"

        def context(self, run):
            return run.prior_context

    @register_protocol("rival")
    class Rival(Guest):
        palette_index = PROTOCOLS.get("np").palette_index

    try:
        names = [*PROTOCOLS, "np1", "np10", "np100", *(f"stranger {letter}" for letter in "abcdefghijkl")]
        looks = protocol_looks(names)
        assert len(set(looks.values())) == len(names) > 2 * len(style.PALETTE)
        assert looks["rival"].color == looks["np"].color == looks["np10"].color
        # a look does not depend on what else is drawn
        assert protocol_looks(["guest", "np"]) == {name: looks[name] for name in ("guest", "np")}
        assert protocol_text("guest", "(1.5)", 60) == "guest: what a guest does (1.5)"
    finally:
        for name in ("guest", "rival"):
            PROTOCOLS.unregister(name)
    assert protocol_text("guest", "(1.5)") == "guest (1.5)"


def test_every_protocol_is_described():
    for name, protocol in PROTOCOLS.items():
        assert 10 < len(protocol.description) < 60, name
        assert "oracle" not in protocol.description  # that word means one agent


@pytest.mark.parametrize("color", [*style.PALETTE, "#FFFF00", "#FFFFFF", style.INK])
def test_text_is_as_pale_as_it_may_be(color):
    shade = style.text_color(color)
    assert colors.contrast(shade) >= 4.5
    assert shade == color if colors.contrast(color) >= 4.5 else colors.contrast(shade) < 4.7


def test_contrast_of_known_colors():
    assert colors.contrast("#767676") == pytest.approx(4.54, abs=0.005)
    assert colors.contrast("#777777") == pytest.approx(4.48, abs=0.005)
    assert colors.contrast("white", "black") == pytest.approx(21.0)


def test_dashes_differ():
    patterns = [colors.dash(number) for number in range(12)]
    assert len(set(patterns)) == 12
