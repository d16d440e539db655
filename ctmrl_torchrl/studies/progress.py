"""One line that says how far a study is: a bar in a terminal, a line a minute elsewhere."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO, cast

from torchrl._utils import logger as torchrl_logger
from tqdm import tqdm

from ctmrl_torchrl.progress import duration

__all__ = ["Progress", "counted"]


def counted(number: int, noun: str) -> str:
    """Format a count with its noun in the singular or plural.

    Examples:
        >>> counted(1, "dataset"), counted(3, "run")
        ('1 dataset', '3 runs')
    """
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


class Progress:
    """Shows how many runs are done, running and failed, and the time left.

    Args:
        total: runs of the study.
        done: runs that were already done.
        measured: returns the numbers of running and failed runs, and the estimated remaining seconds, or ``None``
            if unknown.
        shown: false disables the output.
        stream: where a bar is drawn.
        pause: seconds between two lines where ``stream`` is not a terminal.
    """

    def __init__(
        self,
        total: int,
        done: int,
        measured: Callable[[], tuple[int, int, float | None]],
        *,
        shown: bool = True,
        stream: TextIO | None = None,
        pause: float = 60.0,
    ) -> None:
        self.total, self.done, self.measured = total, done, measured
        stream = cast(TextIO, sys.stderr if stream is None else stream)
        self._bar = tqdm(total=total, initial=done, file=stream, bar_format=_BAR) if (
            shown and stream.isatty()
        ) else None  # fmt: skip
        self._pause = 5.0 if self._bar is not None else pause
        self._shown, self._stop, self._said = shown, threading.Event(), time.monotonic()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Progress:
        if self._shown:
            self._say()
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._shown:
            self._thread.join()
            self._say()
        if self._bar is not None:
            self._bar.close()

    def advance(self) -> None:
        """Count one more finished run."""
        self.done += 1
        if self._bar is not None:
            self._bar.update(1)

    def line(self) -> str:
        """The status line without a bar."""
        return f"{self.done} of {self.total} runs done, {self._rest()}"

    def _rest(self) -> str:
        running, failed, left = self.measured()
        parts = [f"{running} running", f"{failed} failed", *([f"{duration(left)} left"] if left else [])]
        return ", ".join(parts)

    def _say(self) -> None:
        if self._bar is None:
            torchrl_logger.info(self.line())
        else:
            self._bar.set_postfix_str(self._rest())

    def _watch(self) -> None:
        while not self._stop.wait(self._pause):
            self._say()


_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} runs{postfix}"
