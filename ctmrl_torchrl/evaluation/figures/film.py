"""Frames of a robot along an episode, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctmrl_torchrl.evaluation.figures import style

__all__ = ["plot_film"]

_WIDTH = 10.6  # inches of all frames of a row


@style.styled
def plot_film(
    rows: Sequence[np.ndarray],
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
    path: str | Path,
    *,
    title: str = "The robot before and after adaptation",
    subtitle: str | None = None,
) -> Path:
    """Plot one row of frames per episode, each frame with a caption below.

    Args:
        rows: frames of each row, uint8 ``[frames, height, width, 3]``, all of one size.
        names: one per row.
        captions: one text per frame of each row.
        path: PNG file to write.
        title: title of the figure.
        subtitle: second, lighter line.

    Raises:
        ValueError: if the numbers of rows, names and captions do not match, or frames differ in size.
    """
    shapes = {np.shape(frames) for frames in rows}
    if len(shapes) != 1 or len(names) != len(rows) or {len(texts) for texts in captions} != {len(rows[0])}:
        raise ValueError(
            "plot_film needs rows with equal numbers and sizes of frames, row names, and a caption per frame; "
            f"got frames {sorted(shapes)}, {len(names)} names, captions {[len(texts) for texts in captions]}."
        )
    count, height, width, _ = next(iter(shapes))
    tall = _WIDTH / count * height / width  # inches of a frame
    row_height = tall + 0.62
    size = (_WIDTH + 0.3, len(rows) * row_height + 0.95)
    figure = style.new_figure(*size)
    for row, (frames, name, texts) in enumerate(zip(rows, names, captions, strict=True)):
        bottom = size[1] - 0.95 - (row + 1) * row_height + 0.35
        for index, (frame, text) in enumerate(zip(frames, texts, strict=True)):
            box = (0.15 + index * _WIDTH / count, bottom, _WIDTH / count - 0.04, tall)
            axes = figure.add_axes(
                (box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]), xticks=[], yticks=[]
            )
            axes.grid(False)
            axes.set_frame_on(False)
            axes.imshow(frame, aspect="auto", interpolation="bilinear")
            axes.set_xlabel(text, fontsize=9, labelpad=3)
            if index == 0:
                axes.set_title(name)
    style.heading(figure, figure.axes[0], title, subtitle or "")
    return style.save_figure(figure, path)
