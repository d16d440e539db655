"""Frames of a robot along an episode, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctmrl_torchrl.evaluation.figures import style
from ctmrl_torchrl.storage import atomic_write_bytes

__all__ = ["plot_film", "save_film"]

_WIDTH = 10.6  # inches of all frames of a row
_FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"


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


def save_film(
    rows: Sequence[np.ndarray],
    names: Sequence[str],
    captions: Sequence[Sequence[str]],
    path: str | Path,
    *,
    title: str,
    seconds: float = 5.0,
) -> Path:
    """An animated GIF with the episodes next to each other, which plays ``seconds`` and begins anew.

    Args:
        rows: frames of each episode, uint8 ``[frames, height, width, 3]``, all of one size and at equal times.
        names: one per episode, above it. captions: one text per frame of each episode, below it.
        path: GIF file to write. title: first line. seconds: duration of one pass.

    Raises:
        ValueError: if the numbers of rows, names and captions do not match, or frames differ in size.
    """
    count, height, width = _frame_shape("save_film", rows, names, captions)
    font, gap, line = ImageFont.truetype(_FONT, 13), 8, 20
    size = (len(rows) * (width + gap) + gap, height + 3 * line + 2 * gap)
    pictures = []
    for index in range(count):
        picture = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(picture)
        draw.text((gap, 4), title, fill=style.INK, font=font)
        for row, (frames, name, texts) in enumerate(zip(rows, names, captions, strict=True)):
            left = gap + row * (width + gap)
            draw.text((left, line + 2), name, fill=style.INK, font=font)
            picture.paste(Image.fromarray(frames[index]), (left, 2 * line))
            draw.text((left, 2 * line + height + 3), texts[index], fill=style.INK, font=font)
        pictures.append(picture)
    for every, colors in ((1, 64), (1, 32), (2, 32), (3, 32), (4, 16)):
        shown = pictures[::every]
        content = _animated(shown, colors, 1000.0 * seconds / len(shown))
        if len(content) <= style.MAX_BYTES:
            break
    atomic_write_bytes(Path(path), content)
    return Path(path)


def _animated(pictures: list[Image.Image], colors: int, milliseconds: float) -> bytes:
    """One palette for all pictures, no dithering: what stands still then costs nothing."""
    palette = pictures[len(pictures) // 2].quantize(colors)
    reduced = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in pictures]
    content = io.BytesIO()
    reduced[0].save(
        content, "GIF", save_all=True, append_images=reduced[1:], duration=round(milliseconds), loop=0
    )
    return content.getvalue()


def _frame_shape(
    name: str, rows: Sequence[np.ndarray], names: Sequence[str], captions: Sequence[Sequence[str]]
) -> tuple[int, int, int]:
    shapes = {np.shape(frames) for frames in rows}
    if len(shapes) != 1 or len(names) != len(rows) or {len(texts) for texts in captions} != {len(rows[0])}:
        raise ValueError(
            f"{name} needs rows of equally many and large frames, a name per row and a caption per frame; "
            f"got frames {sorted(shapes)}, {len(names)} names, captions {[len(texts) for texts in captions]}."
        )
    return next(iter(shapes))[:3]
