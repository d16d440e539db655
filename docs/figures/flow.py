"""Draw the flow of the library: python docs/figures/flow.py [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

INK, SOFT = "#1f2933", "#52606d"
DATA, LEARNED, TESTED = "#e3ecf7", "#fde9c9", "#dff1e4"
WIDTH, HEIGHT = 2.32, 0.86
COLUMNS = (0.2, 2.86, 5.52, 8.18, 10.84)
TOP, MIDDLE, BOTTOM = 4.35, 3.0, 1.05


def box(axes: Axes, x: float, y: float, title: str, text: str, color: str) -> None:
    """A box of the size of all, with a title and a line below it."""
    shape = FancyBboxPatch(
        (x, y), WIDTH, HEIGHT, boxstyle="round,pad=0.02,rounding_size=0.09", fc=color, ec=INK, lw=1.1
    )
    axes.add_patch(shape)
    axes.text(x + WIDTH / 2, y + 0.57, title, ha="center", va="center", color=INK, size=9.4, weight="bold")
    axes.text(x + WIDTH / 2, y + 0.24, text, ha="center", va="center", color=SOFT, size=8.4)


def arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], **style: object) -> None:
    """An arrow between two points."""
    options = {"arrowstyle": "-|>", "mutation_scale": 13, "lw": 1.4, "color": INK, "shrinkA": 2, "shrinkB": 2}
    axes.add_patch(FancyArrowPatch(start, end, **(options | style)))


def band(axes: Axes, y: float, height: float, title: str) -> None:
    """The ground of one half of the picture."""
    axes.add_patch(FancyBboxPatch((0.05, y), 13.2, height, boxstyle="round,pad=0,rounding_size=0.15",
                                  fc="#f7f9fb", ec="#cbd2d9", lw=0.8, zorder=0))  # fmt: skip
    axes.text(0.3, y + height - 0.24, title, ha="left", va="center", color=INK, size=11, weight="bold")


def draw(folder: Path) -> Path:
    """Write ``flow.svg`` into a folder."""
    with plt.rc_context({"font.family": "DejaVu Sans", "svg.hashsalt": "flow", "svg.fonttype": "path"}):
        figure, axes = plt.subplots(figsize=(11.5, 5.05))
        axes.set_xlim(0, 13.3)
        axes.set_ylim(0.02, 5.85)
        axes.axis("off")
        band(axes, 2.62, 3.2, "Offline: meta-training on fixed data of the training tasks")
        band(axes, 0.05, 2.45, "Online: meta-test, adaptation to unseen tasks")

        box(axes, COLUMNS[0], TOP, "Behavior data", "agents or your files", DATA)
        box(axes, COLUMNS[1], TOP, "TaskDataset", "memory-mapped", DATA)
        box(axes, COLUMNS[2], TOP, "TaskSampler", "meta-batch of tasks", DATA)
        box(axes, COLUMNS[3], TOP, "Context encoder", "transitions to context", LEARNED)
        box(axes, COLUMNS[4], TOP, "Representation loss", "and the method's parts", LEARNED)
        box(axes, COLUMNS[4], MIDDLE, "Policy loss", "BRAC-SAC, IQL, ...", LEARNED)

        box(axes, COLUMNS[0], BOTTOM, "Unseen tasks", "batched environment", TESTED)
        box(axes, COLUMNS[1], BOTTOM, "TorchRL collector", "plays one episode", TESTED)
        box(axes, COLUMNS[2], BOTTOM, "Context", "grows with each episode", TESTED)
        box(axes, COLUMNS[3], BOTTOM, "Context encoder", "as trained", LEARNED)
        box(axes, COLUMNS[4], BOTTOM, "Policy", "acts on the context", LEARNED)

        for y in (TOP, BOTTOM):
            for left, right in zip(COLUMNS, COLUMNS[1:], strict=False):
                arrow(axes, (left + WIDTH, y + HEIGHT / 2), (right, y + HEIGHT / 2))
        arrow(axes, (COLUMNS[3] + WIDTH, TOP + 0.2), (COLUMNS[4], MIDDLE + HEIGHT / 2 + 0.1),
              connectionstyle="arc3,rad=0.12")  # fmt: skip
        axes.text(COLUMNS[4] - 0.42, MIDDLE + 0.3, "without\ngradient", ha="right", va="center",
                  color=SOFT, size=8.4)  # fmt: skip
        dashed = {"ls": (0, (4, 3)), "color": SOFT, "lw": 1.3}
        arrow(axes, (COLUMNS[3] + WIDTH / 2, TOP), (COLUMNS[3] + WIDTH / 2, BOTTOM + HEIGHT), **dashed)
        arrow(axes, (COLUMNS[4] + WIDTH / 2, MIDDLE), (COLUMNS[4] + WIDTH / 2, BOTTOM + HEIGHT), **dashed)
        axes.text(COLUMNS[3] + WIDTH / 2 - 0.12, MIDDLE + 0.36, "weights", ha="right", va="center",
                  color=SOFT, size=8.4)  # fmt: skip

        axes.text(
            0.3,
            MIDDLE + 0.3,
            "Every solid arrow carries a TensorDict.",
            ha="left",
            va="center",
            color=SOFT,
            size=8.4,
        )

        right, left, low = COLUMNS[4] + WIDTH / 2, COLUMNS[1] + WIDTH / 2, 0.45
        axes.plot([right, right, left], [BOTTOM, low, low], color=INK, lw=1.4)
        arrow(axes, (left, low - 0.01), (left, BOTTOM), shrinkA=0)
        axes.text((left + right) / 2, low + 0.03, "next episode: actions that depend on the context",
                  ha="center", va="bottom", color=SOFT, size=8.4)  # fmt: skip
        file = folder / "flow.svg"
        figure.savefig(file, bbox_inches="tight", pad_inches=0.03, facecolor="white",
                       metadata={"Date": None})  # fmt: skip
        plt.close(figure)
    return file


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
