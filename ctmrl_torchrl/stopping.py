"""SIGTERM and Ctrl-C: what is under way is brought to a point from which it can go on, then it ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: seconds between a first Ctrl-C and one that means "now"
_INSISTS_AFTER = 1.0
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Stopped(SystemExit):
    """The process was asked to stop, and has stopped; what it was doing can go on later.

    Args:
        number (int): of the signal.
        message (str): two lines: where it stopped, and how to go on.

    Attributes:
        code (int): exit status, 130 after Ctrl-C and 143 after SIGTERM. message (str): as given.

    Examples:
        >>> Stopped(signal.SIGTERM, "stopped").code
        143
    """

    def __init__(self, number: int, message: str = "") -> None:
        super().__init__(128 + number)
        self.number = number
        self.message = message or f"stopped by {_NAMES.get(number, number)}\nThe same command begins anew."

    def __str__(self) -> str:
        return self.message


class StopRequests:
    """The handler of both signals.

    By default a signal ends what is under way by :class:`Stopped`, wherever it is. Within
    :func:`deferred` it is only remembered, and :func:`stop_requested` tells of it; a second Ctrl-C ends it
    nevertheless.
    """

    def __init__(self) -> None:
        self.process = os.getpid()
        self.number: int | None = None
        self.deferring = 0
        self._since = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if os.getpid() != self.process:  # a forked worker: its parent stops it
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if self.number is None:
            self.number, self._since = number, time.monotonic()
            if not self.deferring:
                raise Stopped(number)
        # A wrapper may pass the same signal on once more: only a later Ctrl-C is the user's second one.
        elif number == signal.SIGINT and time.monotonic() - self._since > _INSISTS_AFTER:
            raise Stopped(number, "stopped by a second Ctrl-C\nThe last checkpoint, if any, is from before.")


def _installed() -> StopRequests | None:
    handler = signal.getsignal(signal.SIGTERM)
    return handler if isinstance(handler, StopRequests) and handler.process == os.getpid() else None


@contextmanager
def stop_signals() -> Iterator[None]:
    """Have SIGTERM and Ctrl-C raise :class:`Stopped` within; elsewhere they do what they did before.

    Only the main thread can take signals; in another one, and within another such block, nothing changes.

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
    # What ignores Ctrl-C already (a background job of a shell) goes on ignoring it.
    taken = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, signal.SIG_DFL if earlier is None else earlier)


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a first signal is only remembered: see :func:`stop_requested`."""
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
    """Within, a signal ends what is under way at once, also inside of :func:`deferred`.

    Raises:
        Stopped: if a signal comes, or has come already.
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
    """Number of the signal that has asked this process to stop, None if there was none.

    Examples:
        >>> stop_requested() is None
        True
    """
    handler = _installed()
    return None if handler is None else handler.number


def signal_name(number: int) -> str:
    """What a user calls the signal.

    Examples:
        >>> signal_name(signal.SIGINT)
        'Ctrl-C'
    """
    return _NAMES.get(number, str(number))
