"""The shared style of all figures: palette, text sizes, margin labels and saving.

Figures are built without pyplot, so there is no global state and no display is needed.
"""

from __future__ import annotations

import functools
import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image
from torch import Tensor

from ctmrl_torchrl.evaluation.figures.colors import INK, MUTED, NOTE, PALETTE, text_color
from ctmrl_torchrl.evaluation.figures.protocols import Look, protocol_looks, protocol_text
from ctmrl_torchrl.storage import atomic_write_bytes

__all__ = [
    "INK",
    "MUTED",
    "NOTE",
    "PALETTE",
    "Label",
    "Look",
    "below_axis",
    "clipped_floor",
    "code_colours",
    "heading",
    "label_margin",
    "make_room",
    "new_figure",
    "number",
    "protocol_looks",
    "protocol_text",
    "reference_line",
    "reference_text",
    "save_figure",
    "short_number",
    "styled",
    "text_color",
    "text_width",
    "to_array",
]

MAX_BYTES = 300_000

_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11.0,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 9.0,
    "axes.labelsize": 11.0,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#9A9A9A",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2.2,
    "lines.solid_capstyle": "round",
    "text.color": INK,
    "xtick.color": NOTE,
    "ytick.color": NOTE,
    "xtick.labelsize": 10.0,
    "ytick.labelsize": 10.0,
    "figure.dpi": 110.0,
    "savefig.dpi": 110.0,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


class Label(NamedTuple):
    """A label beside the axes at the height ``y`` (data coordinates) of its element."""

    y: float
    text: str
    colour: str


def styled(plot: Callable[..., Path]) -> Callable[..., Path]:
    """Run ``plot`` with only the shared style and restore matplotlib's settings afterwards."""

    @functools.wraps(plot)
    def wrapper(*args: Any, **kwargs: Any) -> Path:
        with matplotlib.rc_context(cast(Any, {**_defaults(), **_STYLE})):
            return plot(*args, **kwargs)

    return wrapper


def _defaults() -> dict[str, Any]:
    """Matplotlib's defaults, so that a user's matplotlibrc neither changes nor breaks a figure."""
    kept = ("backend", "backend_fallback", "datapath", "interactive", "toolbar", "timezone")
    return {
        name: value
        for name, value in matplotlib.rcParamsDefault.items()
        if not name.startswith(kept) and not name.startswith("webagg.")
    }


def new_figure(width: float, height: float) -> Figure:
    """A figure of the given size in inches that renders without a display."""
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def text_width(figure: Figure, texts: Iterable[str], size: float) -> float:
    """Width of the widest of some texts of one line at a font size, in inches.

    Args:
        figure: a figure of :func:`new_figure`. texts: the texts. size: font size in points.
    """
    renderer = cast(FigureCanvasAgg, figure.canvas).get_renderer()
    font = FontProperties(size=size)
    widths = (renderer.get_text_width_height_descent(text, font, ismath=False)[0] for text in texts)
    return max(widths, default=0.0) / figure.dpi


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write the figure atomically as a PNG below 300 kB."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"Figures are written as PNG; expected a path that ends in .png, got {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    if buffer.tell() > MAX_BYTES:
        image = Image.open(buffer).convert("RGB")
        for colours in (256, 64, 16):  # reduce colors until the file is small enough
            buffer = io.BytesIO()
            image.quantize(colours, dither=Image.Dither.NONE).save(buffer, format="png", optimize=True)
            if buffer.tell() <= MAX_BYTES:
                break
    atomic_write_bytes(path, buffer.getvalue())
    return path


def to_array(values: Any, name: str, ndim: int | None = None) -> np.ndarray:
    """``values`` as a float64 array, with a clear error for a wrong number of dimensions."""
    if isinstance(values, Tensor):
        values = values.detach().cpu().numpy()
    array = np.asarray(values, dtype=np.float64)
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), got the shape {list(array.shape)}.")
    return array


def code_colours(count: int) -> list[str]:
    """One color per code; beyond the palette, evenly spaced colors (codes are also numbered)."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    shades = matplotlib.colormaps["nipy_spectral"](np.linspace(0.08, 0.92, count))
    return [to_hex(shade) for shade in shades]


def label_margin(axes: Axes, labels: Sequence[Label], size: float = 10.0) -> None:
    """Write labels right of the axes, moved apart to avoid overlap and connected to their elements.

    Call it last, because the axis limits must be final. The margin must be wide enough.
    """
    if not labels:
        return
    width, height = axes.get_position().size * cast(Figure, axes.figure).get_size_inches() * 72  # in points
    line = 1.22 * size / height
    transform = axes.transData + axes.transAxes.inverted()
    left = axes.get_xlim()[0]
    entries = sorted((float(transform.transform((left, label.y))[1]), label) for label in labels)
    wanted = [min(max(y, 0.0), 1.0) for y, _ in entries]
    halves = [line * (1 + label.text.count("\n")) / 2 for _, label in entries]
    heights = _spread(wanted, halves, gap=0.35 * line)
    near, far, text = (1 + points / width for points in (4, 16, 19))
    for target, y, (_, label) in zip(wanted, heights, entries, strict=True):
        axes.plot(
            [near, far],
            [target, y],
            transform=axes.transAxes,
            color=label.colour,
            linewidth=1.0,
            linestyle="-",
            clip_on=False,
        )
        axes.text(
            text,
            y,
            label.text,
            transform=axes.transAxes,
            color=text_color(label.colour),
            fontsize=size,
            va="center",
            ha="left",
            linespacing=1.1,
        )


def make_room(axes: Axes, labels: Sequence[Label], size: float = 10.0) -> None:
    """Make the figure and its only axes higher if the margin's labels need it; call it before the heading."""
    figure, box = cast(Figure, axes.figure), axes.get_position()
    lines = sum(1 + label.text.count("\n") for label in labels) + 0.35 * (len(labels) - 1)
    inches, tall = 1.22 * size / 72 * lines / 1.07, figure.get_figheight()
    more = max(inches - box.height * tall, 0.0)
    figure.set_figheight(tall + more)
    bottom, height = box.y0 * tall / (tall + more), (box.height * tall + more) / (tall + more)
    axes.set_position((box.x0, bottom, box.width, height))


def _spread(wanted: list[float], halves: list[float], gap: float) -> list[float]:
    """Heights close to the (sorted) requested ones, separated by at least the label sizes."""
    heights: list[float] = []
    groups: list[list[int]] = []
    # Labels that collide form a group centered on the mean of the requested heights.
    for index in range(len(wanted)):
        groups.append([index])
        while len(groups) > 1 and _start(groups[-1], wanted, halves, gap) < (
            _start(groups[-2], wanted, halves, gap) + _extent(groups[-2], halves, gap) + gap
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    for group in groups:
        bottom = _start(group, wanted, halves, gap)
        for index in group:
            heights.append(bottom + halves[index])
            bottom += 2 * halves[index] + gap
    return heights


def _extent(group: list[int], halves: list[float], gap: float) -> float:
    return sum(2 * halves[index] for index in group) + gap * (len(group) - 1)


def _start(group: list[int], wanted: list[float], halves: list[float], gap: float) -> float:
    offset, starts = 0.0, []
    for index in group:
        starts.append(wanted[index] - halves[index] - offset)
        offset += 2 * halves[index] + gap
    # Keep labels beside the axes, outside the heading and the tick labels.
    return float(np.clip(np.mean(starts), -0.06, max(1.03 - _extent(group, halves, gap), -0.06)))


def reference_line(axes: Axes, value: float, colour: str, linestyle: Any) -> None:
    """A horizontal line across the axes."""
    axes.axhline(value, color=colour, linestyle=linestyle, linewidth=1.4, zorder=1.5)


_REFERENCES = {
    "optimum": "optimum: the exact best return",
    "oracle": "oracle: the same learner, told the task parameters",
    "behavior": "behavior: the agent that made the data",
}


def reference_text(name: str, value: str = "", width: int = 25) -> str:
    """Name, meaning and value of a reference return, on lines of about ``width`` characters."""
    text = " ".join(filter(None, (_REFERENCES.get(name, name), value)))
    return textwrap.fill(text, width, break_long_words=False)


def below_axis(floor: float, text: str, colour: str = MUTED) -> Label:
    """A label at the lower edge for values below the axis."""
    return Label(floor, f"\u2193 {text}", colour)


def number(value: float, digits: int = 2) -> str:
    """Format ``value`` for a label, with a real minus sign and fewer decimals for large numbers."""
    digits = digits if abs(value) < 100 else 0
    return f"{value:.{digits}f}".replace("-", "\u2212")


def short_number(value: float, _: int | None = None) -> str:
    """Format a number of steps for an axis: ``2.5k``, ``1.5M``."""
    for size, unit in ((1_000_000, "M"), (1000, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def clipped_floor(values: np.ndarray, keep: np.ndarray, top: float, random: float | None) -> float:
    """Lower limit of a return axis that is not compressed by values near the random policy.

    Args:
        values: all returns; those in the lowest 40 % between ``random`` and ``top`` may be cut off.
        keep: returns that must be visible (final results, published results).
        top: upper end of the view.
        random: return of the random policy; if None, everything is visible.
    """
    shown = values if random is None or random >= top else values[values > top - 0.6 * (top - random)]
    lowest = float(np.concatenate([shown, keep, [top]]).min())
    floor = lowest - 0.08 * max(top - lowest, 1e-3 * max(abs(top), 1.0))
    if random is not None and floor - 0.15 * (top - floor) <= random < top:
        floor = min(floor, random - 0.05 * (top - random))  # almost visible, so show it
    return floor


def heading(figure: Figure, axes: Axes, title: str, subtitle: str = "") -> None:
    """Title and a lighter line below it, aligned with the left edge of the axes.

    A subtitle that is too long for the figure is written smaller.
    """
    left, top = axes.get_position().x0, 1 - 0.16 / figure.get_figheight()
    figure.text(left, top, title, fontsize=13.5, fontweight="bold", va="top", ha="left")
    if subtitle:
        text = figure.text(
            left,
            top - 0.29 / figure.get_figheight(),
            subtitle,
            fontsize=10.5,
            color=NOTE,
            va="top",
            ha="left",
        )
        # Widths of hinted glyphs are not proportional to the font size, so it is found by trying.
        size = 10.5
        while text.get_window_extent().x1 > 0.98 * figure.bbox.width and size > 5.0:
            size -= 0.25
            text.set_fontsize(size)
