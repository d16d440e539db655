"""Progress on the console: a bar on a terminal, one line per minute elsewhere, and no color codes in files."""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from torchrl._utils import logger as torchrl_logger
from tqdm import tqdm

__all__ = ["duration", "plain_log", "progress_bar"]

#: seconds between two lines if the stream is not a terminal
PAUSE = 60.0
_LINE = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} elapsed, {remaining} left{postfix}"


def duration(seconds: float) -> str:
    """A duration in its two largest units.

    Examples:
        >>> duration(42), duration(3720), duration(201_600)
        ('42 s', '1 h 2 min', '2 d 8 h')
    """
    seconds = int(round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours < 1:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if days < 1 else f"{days} d {hours % 24} h"


def progress_bar(
    total: int,
    what: str,
    *,
    unit: str = "updates",
    initial: int = 0,
    shown: bool = True,
    stream: TextIO | None = None,
    pause: float = PAUSE,
) -> tqdm:
    """A progress bar with the remaining time; a context manager with ``update`` and ``set_postfix_str``.

    On a terminal, this is a bar; elsewhere, e.g. in a log file, a log message every ``pause`` seconds.

    Args:
        total (int): total number of steps. what (str): name of the activity, at the start of the line.

    Keyword Args:
        unit (str): name of a step, in the plural. initial (int): steps completed earlier.
        shown (bool): ``False`` for no output.
        stream (TextIO, optional): output of the bar; default ``sys.stderr``.
        pause (float): seconds between two messages if the stream is not a terminal.

    Examples:
        >>> with progress_bar(3, "meta-train", shown=False) as bar:
        ...     for _ in range(3):
        ...         _ = bar.update()
        >>> bar.total
        3
    """
    stream = cast(TextIO, sys.stderr if stream is None else stream)
    if shown and not stream.isatty():
        # A bar that ends within the first pause prints nothing.
        return tqdm(
            total=total, initial=initial, desc=what, unit=unit, file=_LogLines(), bar_format=_LINE,
            mininterval=pause, maxinterval=pause, delay=pause, leave=False,
        )  # fmt: skip
    return tqdm(
        total=total,
        initial=initial,
        desc=what,
        unit=f" {unit}",
        file=stream,
        disable=not shown,
        smoothing=0.05,
    )


class _LogLines(io.StringIO):
    """Turns the frames of a bar into messages of TorchRL's logger."""

    def __init__(self, log: Callable[[str], None] = torchrl_logger.info) -> None:
        super().__init__()
        self._log = log

    def write(self, text: str) -> int:
        line = text.strip("\r\n ")
        if line:
            self._log(line)
        return len(text)


@contextmanager
def plain_log() -> Iterator[None]:
    """Remove color codes from TorchRL's log messages that do not go to a terminal."""
    dressed = [
        (handler, handler.formatter)
        for handler in torchrl_logger.handlers
        if isinstance(handler, logging.StreamHandler) and not _is_terminal(handler.stream)
    ]
    for handler, _ in dressed:
        handler.setFormatter(logging.Formatter("%(asctime)s [%(levelname)s] %(message)s"))
    try:
        yield
    finally:
        for handler, formatter in dressed:
            handler.setFormatter(formatter)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # a replaced or closed stream
        return False
