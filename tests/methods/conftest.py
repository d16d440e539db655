from __future__ import annotations

import pytest
import torch
from small_runs import small_config

from ctmrl_torchrl.training.build import build_experiment


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A folder of datasets; those of the smoke recipe are made on first use."""
    return tmp_path_factory.mktemp("datasets")


@pytest.fixture
def anole_experiment(data_root, tmp_path):
    """A small experiment of ANOLE on point_robot, not yet begun."""
    return build_experiment(small_config("anole", data_root, tmp_path, protocols="[anole]"))


@pytest.fixture(autouse=True)
def _same_random_state():
    """Runs seed the global generator and set the number of threads; leave no trace of that."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
