from __future__ import annotations

import io
import logging

import pytest
from torchrl._utils import logger as torchrl_logger

from ctmrl_torchrl.progress import duration, plain_log, progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def messages():
    """What TorchRL's logger says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    torchrl_logger.addHandler(handler)
    yield said
    torchrl_logger.removeHandler(handler)


def test_a_terminal_shows_a_bar(messages):
    stream = Terminal()
    with progress_bar(10, "meta-train", stream=stream) as bar:
        bar.update(5)
    assert "meta-train" in stream.getvalue() and "\r" in stream.getvalue()
    assert messages == []


def test_a_file_gets_whole_lines_with_the_time_left(messages):
    stream = io.StringIO()
    with progress_bar(10, "meta-train", stream=stream, pause=0.0) as bar:
        bar.set_postfix_str("np -5.0", refresh=False)
        bar.update(5)
    assert stream.getvalue() == ""
    assert all("\r" not in line and line.startswith("meta-train: ") for line in messages)
    assert "5 of 10 updates" in messages[-1] and "left" in messages[-1] and "np -5.0" in messages[-1]


def test_a_file_gets_no_more_than_a_line_a_pause(messages):
    with progress_bar(1000, "meta-train", stream=io.StringIO(), pause=60.0) as bar:
        for _ in range(1000):
            bar.set_postfix_str("np -5.0", refresh=False)
            bar.update()
    assert messages == []


def test_nothing_is_shown_where_nothing_is_wanted(messages):
    stream = Terminal()
    with progress_bar(10, "meta-train", shown=False, stream=stream) as bar:
        bar.update(10)
    assert stream.getvalue() == "" and messages == []


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_color_codes_reach_terminals_only(stream, monkeypatch):
    handler = torchrl_logger.handlers[0]
    monkeypatch.setattr(handler, "stream", stream)
    with plain_log():
        torchrl_logger.info("hello")
    assert ("\033" in stream.getvalue()) == stream.isatty()
    before = handler.formatter
    with plain_log():
        pass
    assert handler.formatter is before


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (90_000, "1 d 1 h")]
)
def test_durations_are_told_in_two_units(seconds, text):
    assert duration(seconds) == text
