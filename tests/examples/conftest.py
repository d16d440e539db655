"""How a test starts a program of the examples, and where its data are."""

from __future__ import annotations

import logging
import runpy
import sys

import pytest
import torch
from programs import EXAMPLES


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """The folder in which the programs make their data, once."""
    return tmp_path_factory.mktemp("data")


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
        monkeypatch.setattr(sys, "argv", [file, *map(str, arguments)])
        capsys.readouterr()
        with torch.random.fork_rng():
            runpy.run_path(file, run_name="__main__")
        return capsys.readouterr().out

    yield start
    logger.handlers[:] = handlers
    logger.setLevel(level)
    torch.set_num_threads(threads)
