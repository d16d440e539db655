"""What tests of several rooms share."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported: workers share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def _stored_choices() -> dict[str, set[str]]:
    """What is registered with Hydra without a file, but for Hydra's own."""
    from hydra.core.config_store import ConfigStore

    groups = ConfigStore.instance().repo.items()
    return {name: set(group) for name, group in groups if isinstance(group, dict) and name != "hydra"}


@pytest.fixture
def registered():
    """What a page or a user's file registers is a choice during its test only."""
    from hydra.core.config_store import ConfigStore

    from ctmrl_torchrl.collectors import PROTOCOLS
    from ctmrl_torchrl.envs import FAMILIES, unregister_family
    from ctmrl_torchrl.methods import REPRESENTATIONS
    from ctmrl_torchrl.training.hydra_store import register_configs

    register_configs()
    before = {id(registry): set(registry) for registry in (FAMILIES, PROTOCOLS, REPRESENTATIONS)}
    stored = _stored_choices()
    yield
    for group, choices in _stored_choices().items():
        for name in choices - stored.get(group, set()):
            del ConfigStore.instance().repo[group][name]
    for name in set(FAMILIES) - before[id(FAMILIES)]:
        unregister_family(name)
    for registry in (PROTOCOLS, REPRESENTATIONS):
        for name in set(registry) - before[id(registry)]:
            registry.unregister(name)
