"""Training curves: an overview of the main curves, and all curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FuncFormatter, MaxNLocator

from ctmrl_torchrl.evaluation.figures import style
from ctmrl_torchrl.evaluation.figures.learning_panels import Curves, Panel, all_panels, first_panels
from ctmrl_torchrl.evaluation.figures.series import read_metrics, series_of

__all__ = ["plot_learning", "read_metrics"]

_FIRST = {"columns": 2, "panel": (3.3, 2.25)}
_ALL = {"columns": 3, "panel": (2.3, 1.95)}
_GAP = (2.0, 1.2)  # inches for the labels on the right, and for titles and tick labels


@style.styled
def plot_learning(
    metrics: str | Path | Mapping[str, Any],
    path: str | Path,
    *,
    everything: bool = False,
    random: float | None = None,
    optimum: float | None = None,
    codes: int | None = None,
    title: str | None = None,
    subtitle: str | None = None,
    best_name: str = "optimum",
    milestones: Mapping[str, float] | None = None,
    titles: Mapping[str, str] | None = None,
    representation: Sequence[str] = (),
    main: str = "",
) -> Path:
    """Plot training curves versus updates: the four main curves, or all.

    The first four are those that exist of: returns of the meta-tests during training, the loss of the
    representation, the critics' loss, use of the codebook, the actor's loss.

    Args:
        metrics: path of a ``metrics.csv``, ``{name: (steps, values)}`` or ``{name: [(step, value), ...]}``.
            Names: ``eval/{test,train}/PROTOCOL/return``, ``loss/...``, ``codebook/perplexity``,
            ``codebook/dead_codes``, ``context_noise/PROTOCOL``. Missing groups are omitted.
        path: PNG file to write.
        everything: whether to plot all curves.
        random: return of the random policy; noted if it lies below the axis.
        optimum: best known return, a line in the returns panel.
        codes: size of the codebook, a line in the code panel.
        title: title of the figure; None chooses one.
        subtitle: second, lighter line.
        best_name: name of the best known return.
        milestones: ``{"policy begins": update, ...}``, thin vertical lines. Codebook usage is only drawn
            after ``"codes begin"``.
        titles: title of each loss, by name without group (``"loss_code"``); others are derived from the name.
        representation: names of the losses of the representation.
        main: the most important of these; empty for their sum.

    Raises:
        ValueError: if none of the names is known.
    """
    series = series_of(metrics)
    milestones = dict(milestones or {})
    for name in ("codebook/perplexity", "codebook/dead_codes"):
        if name in series and "codes begin" in milestones:
            steps, values = series[name]
            used = steps > milestones["codes begin"]
            series[name] = steps[used], values[used]
    series = {name: pair for name, pair in series.items() if pair[0].size}
    curves = Curves(
        series, random, optimum, best_name, codes, dict(titles or {}), tuple(representation), main
    )
    panels = all_panels(curves) if everything else first_panels(curves)
    if not panels:
        raise ValueError(
            f"metrics contains no series that can be plotted (eval/.../return, loss/..., codebook/..., "
            f"context_noise/...); it has {sorted(series)[:20]}."
        )
    chosen = "All training curves" if everything else "What happened during training"
    marks = ", ".join(f"{name} at {update:,.0f}" for name, update in milestones.items())
    notes = (subtitle, f"dotted: {marks}" if marks else "")
    last_step = max(steps[-1] for steps, _ in series.values())
    return _draw(
        panels,
        path,
        title or chosen,
        [note for note in notes if note],
        list(milestones.values()),
        last_step,
        **(_ALL if everything else _FIRST),
    )


def _draw(
    panels: Sequence[Panel],
    path: str | Path,
    title: str,
    notes: Sequence[str],
    milestones: Sequence[float],
    last_step: float,
    *,
    columns: int,
    panel: tuple[float, float],
) -> Path:
    across = min(len(panels), columns)
    down = -(-len(panels) // columns)
    width = across * (panel[0] + _GAP[0]) + 0.3
    separator = " \u00b7 " if sum(map(len, notes)) < 13.5 * width else "\n"
    top = 0.75 + (0.2 if separator == "\n" and len(notes) > 1 else 0.0)
    height = down * (panel[1] + _GAP[1]) + top
    figure = style.new_figure(width, height)
    for index, draw in enumerate(panels):
        row, column = divmod(index, columns)
        left = 0.75 + column * (panel[0] + _GAP[0])
        bottom = height - top - (row + 1) * (panel[1] + _GAP[1]) + 0.62
        axes = figure.add_axes((left / width, bottom / height, panel[0] / width, panel[1] / height))
        axes.set_xlim(-0.02 * last_step, 1.02 * last_step)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(style.short_number))
        labels = draw(axes)
        for update in milestones:
            axes.axvline(update, color=style.MUTED, linestyle=(0, (1, 2)), linewidth=1.0, zorder=1.2)
        axes.set_xlabel("updates")
        style.label_margin(axes, labels, size=9.5)
        if index == 0:
            style.heading(figure, axes, title, separator.join(notes))
    return style.save_figure(figure, path)
