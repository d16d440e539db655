from __future__ import annotations

import pytest
import torch
from tiny_experiments import tiny_config

from ctmrl_torchrl.training.data import obtain_data


@pytest.fixture(scope="session")
def dataset_root(tmp_path_factory):
    """A folder of datasets, with the smoke dataset of point_robot already made."""
    root = tmp_path_factory.mktemp("datasets")
    config = tiny_config(root, root)
    obtain_data(config.dataset, config.env, config.tasks)
    return root


@pytest.fixture(autouse=True)
def _same_random_state():
    """Runs seed the global generator and set the number of threads; leave no trace of that."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        yield
    torch.set_num_threads(threads)
