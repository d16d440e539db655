"""How a test starts a program of the examples."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def program(monkeypatch, capsys, tmp_path):
    """Runs ``python examples/NAME.py ARGUMENTS`` in this process, in an empty folder; returns what it prints.

    Hydra looks for the configuration beside the program, wherever it is started.
    """
    logger, threads = logging.getLogger(), torch.get_num_threads()
    handlers, level = list(logger.handlers), logger.level
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def start(name, *arguments):
        file = str(EXAMPLES / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [file, *arguments])
        capsys.readouterr()
        with torch.random.fork_rng():
            runpy.run_path(file, run_name="__main__")
        return capsys.readouterr().out

    yield start
    logger.handlers[:] = handlers
    logger.setLevel(level)
    torch.set_num_threads(threads)
