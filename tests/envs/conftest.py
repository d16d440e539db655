from __future__ import annotations

import pytest
from guest_toys import make_cart

from ctmrl_torchrl.envs import from_gymnasium


@pytest.fixture
def cart():
    """A family of carts that a user defined: tasks 1, 4 and 6 of its 8 are test tasks."""
    return from_gymnasium("cart", make_cart, {"mass": (0.5, 2.0)}, train_tasks=5, test_tasks=3)
