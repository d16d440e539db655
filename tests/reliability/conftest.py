"""A dataset for tiny runs, and counts that are printed at the end of the suite."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from tiny_experiments import tiny_config

from ctmrl_torchrl.training.data import obtain_data

COUNTS = pytest.StashKey[list]()


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory):
    """A folder of datasets, with the smoke dataset of point_robot already made."""
    root = tmp_path_factory.mktemp("datasets")
    config = tiny_config(root, root)
    obtain_data(config.dataset, config.env, config.tasks)
    return root


@pytest.fixture
def count(request):
    """Say what was tried, how often and with which outcome: ``count("overwriting: 12 kills, 0 losses")``."""
    return request.config.stash.setdefault(COUNTS, []).append


@pytest.fixture(autouse=True)
def _same_random_state():
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter, config):
    counts = config.stash.get(COUNTS, [])
    if counts:
        terminalreporter.section("reliability")
        for line in counts:
            terminalreporter.write_line(line)
