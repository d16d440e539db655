"""Handles SIGTERM and Ctrl-C: work continues to a point from which it can be resumed, and then stops."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: minimum seconds between a first Ctrl-C and a second one that stops immediately
_INSISTS_AFTER = 1.0
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(SystemExit):
    """The process was stopped by a signal; its work can be resumed later.

    Args:
        number (int): number of the signal.
        message (str): two lines: where it stopped and how to resume.

    Attributes:
        code (int): exit status, 130 after Ctrl-C and 143 after SIGTERM. message (str): as given.

    Examples:
        >>> Stopped(signal.SIGTERM, "stopped").code
        143
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(128 + number)
        self.number = number
        self.message = message or f"stopped by {signal_name(number)}\nThe same command starts again."

    def __str__(self) -> str:
        return self.message


class StopRequests:
    """The handler of both signals.

    By default, a signal raises :class:`Stopped` immediately. Within :func:`deferred` it is only recorded, and
    :func:`stop_requested` reports it; a second Ctrl-C still stops immediately.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.number: int | None = None
        self.deferring = 0
        self._since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if os.getpid() != self.process:  # a forked worker: its parent stops it
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if not self.deferring:
                raise Stopped(number)
        # A wrapper may forward the same signal again; only a later Ctrl-C counts as the second one.
        elif number == signal.SIGINT and time.monotonic() - self._since > _INSISTS_AFTER:
            raise Stopped(number, "stopped by a second Ctrl-C\nThe last checkpoint, if any, is from before.")


def _installed() -> StopRequests | None:
    handler = signal.getsignal(signal.SIGTERM)
    return handler if isinstance(handler, StopRequests) and handler.process == os.getpid() else None


@contextmanager
def stop_signals() -> Iterator[None]:
    """Make SIGTERM and Ctrl-C raise :class:`Stopped` inside the block; restore the handlers afterwards.

    Only the main thread can handle signals; in other threads and in nested blocks this has no effect.

    Examples:
        >>> with stop_signals():
        ...     try:
        ...         os.kill(os.getpid(), signal.SIGTERM)
        ...     except Stopped as stopped:
        ...         print(stopped.code)
        143
    """
    if threading.current_thread() is not threading.main_thread() or _installed() is not None:
        yield
        return
    handler = StopRequests()
    # A process that already ignores Ctrl-C (a shell's background job) continues to ignore it.
    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


@contextmanager
def deferred() -> Iterator[None]:
    """Inside the block, a first signal is only recorded; see :func:`stop_requested`."""
    handler = _installed()
    if handler is None:
        yield
        return
    handler.deferring += 1
    try:
        yield
    finally:
        handler.deferring -= 1


@contextmanager
def at_once() -> Iterator[None]:
    """Inside the block, a signal stops immediately, even within :func:`deferred`.

    Raises:
        Stopped: if a signal arrives or has already arrived.
    """
    handler = _installed()
    if handler is None:
        yield
        return
    if handler.number is not None:
        raise Stopped(handler.number)
    outer, handler.deferring = handler.deferring, 0
    try:
        yield
    finally:
        handler.deferring = outer


def stop_requested() -> int | None:
    """Number of the signal that requested a stop, or None.

    Examples:
        >>> stop_requested() is None
        True
    """
    handler = _installed()
    return None if handler is None else handler.number


def signal_name(number: int) -> str:
    """The user-facing name of a signal.

    Examples:
        >>> signal_name(signal.SIGINT)
        'Ctrl-C'
    """
    return _NAMES.get(signal.Signals(number), str(number)) if number in _NAMES else str(number)
