from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_random_state():
    """Recordings draw random numbers; leave no trace of that."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
